"""Images as data: the JSON documents of the OCI image-spec 1.1 and of Docker's schema 2. Pure: bytes in, values out."""
