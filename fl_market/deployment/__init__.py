"""Deployment of a market as processes on one machine."""
