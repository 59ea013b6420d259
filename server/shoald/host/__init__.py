"""The host: system calls, mounts, processes, network links, cgroups, files. Knows nothing of images or containers."""
