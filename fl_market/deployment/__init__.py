"""Deployments: a market's processes over gRPC, as operators start them."""
