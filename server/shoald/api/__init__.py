"""gRPC servicers and interceptors: the only place that knows the wire."""
