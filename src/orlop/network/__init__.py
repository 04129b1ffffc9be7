"""Bridges, addresses, published ports, the firewall, names, and networks without root."""
