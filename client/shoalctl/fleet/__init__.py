"""The Fleet library: many hosts, one call, a result for each. It never prints."""
