"""Generated protocol buffers and gRPC stubs of the API `shoal.v1`; `make proto` makes them anew."""
