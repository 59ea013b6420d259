"""Networks of containers: bridge, addresses, published ports."""
