"""Side-by-side benchmarks: shoal, Docker and Podman on the same machine, storage and images in one run."""
