"""The flags of `run` and `create` about isolation, limits, names and health, in docker's spelling."""

from __future__ import annotations

from shoalctl.commands.flag_table import Flag

RIGHTS = (
    Flag("--cap-add", "cap_add", "Add a capability, or ALL.", "CAP"),
    Flag("--cap-drop", "cap_drop", "Drop a capability, or ALL.", "CAP"),
    Flag("--privileged", "privileged", "All rights on the host (role admin).", "", False),
    Flag("--security-opt", "security_opt", "seccomp=FILE, no-new-privileges, apparmor=...", "OPTION"),
    Flag("--group-add", "group_add", "One more group, by name or id.", "GROUP"),
    Flag("--ulimit", "ulimit", "A limit of processes.", "NAME=SOFT[:HARD]"),
    Flag("--sysctl", "sysctl", "A parameter of its namespaces.", "NAME=VALUE"),
    Flag("--annotation", "annotation", "For the OCI runtime.", "KEY=VALUE"),
    Flag("--label-file", "label_file", "Labels from a file.", "FILE"),
)
NAMESPACES = (
    Flag("--pid", "pid_mode", "host or container:NAME.", "MODE", ""),
    Flag("--ipc", "ipc_mode", "private, shareable, host or container:NAME.", "MODE", ""),
    Flag("--uts", "uts_mode", "host: the host's host name.", "MODE", ""),
    Flag("--cgroupns", "cgroupns_mode", "private or host.", "MODE", ""),
)
NAMES = (
    Flag("--domainname", "domainname", "The domain name inside.", "NAME", ""),
    Flag("--add-host", "extra_hosts", "A line of /etc/hosts; also host-gateway.", "NAME:ADDRESS"),
    Flag("--dns", "dns", "A DNS server instead of the host's.", "ADDRESS"),
    Flag("--dns-search", "dns_search", "A search domain; . for none.", "DOMAIN"),
    Flag("--dns-option --dns-opt", "dns_options", "An option of resolv.conf.", "OPTION"),
    Flag("--mac-address", "mac_address", "Of its interface.", "MAC", ""),
    Flag("--ip", "ip_address", "Its IPv4 address.", "ADDRESS", ""),
    Flag("--ip6", "ip6_address", "Its IPv6 address.", "ADDRESS", ""),
    Flag("--network-alias --net-alias", "network_aliases", "One more name in its network.", "NAME"),
    Flag("--expose", "exposed_ports", "A port that -P publishes.", "PORT[/PROTO]"),
    Flag("-P --publish-all", "publish_all_ports", "Publish all exposed ports on free ports.", "", False),
)
PROCESSORS_AND_MEMORY = (
    Flag("--memory-swap", "memory_swap", "Memory and swap together; -1: no limit.", "SIZE", ""),
    Flag("--memory-reservation", "memory_reservation", "A soft memory limit.", "SIZE", ""),
    Flag("--memory-swappiness", "memory_swappiness", "0 to 100.", "N", -1),
    Flag("--oom-kill-disable", "oom_kill_disable", "Never kill for memory.", "", False),
    Flag("--oom-score-adj", "oom_score_adj", "-1000 to 1000.", "N", 0),
    Flag("-c --cpu-shares", "cpu_shares", "Relative weight (1024).", "N", 0),
    Flag("--cpu-period", "cpu_period", "Of the quota, microseconds.", "US", 0),
    Flag("--cpu-quota", "cpu_quota", "Microseconds in a period.", "US", 0),
    Flag("--cpuset-cpus", "cpuset_cpus", "Processors, such as 0-2,4.", "LIST", ""),
    Flag("--cpuset-mems", "cpuset_mems", "Memory nodes.", "LIST", ""),
    Flag("--blkio-weight", "blkio_weight", "10 to 1000.", "N", 0),
    Flag("--shm-size", "shm_size", "Of /dev/shm (64m).", "SIZE", ""),
)
DEVICES = (
    Flag("--device", "devices", "A device of the host or CDI (role admin).", "PATH[:INSIDE][:rwm]"),
    Flag("--device-cgroup-rule", "device_cgroup_rules", "Such as 'c 189:* rwm' (role admin).", "RULE"),
    Flag("--gpus", "gpus", "all, a number or device=...; by CDI.", "WHICH", ""),
    Flag("--device-read-bps", "device_read_bps", "Bytes a second.", "PATH:SIZE"),
    Flag("--device-write-bps", "device_write_bps", "Bytes a second.", "PATH:SIZE"),
    Flag("--device-read-iops", "device_read_iops", "Reads a second.", "PATH:N"),
    Flag("--device-write-iops", "device_write_iops", "Writes a second.", "PATH:N"),
)
HEALTH = (
    Flag("--health-cmd", "health_cmd", "A shell line: 0 is healthy.", "LINE", ""),
    Flag("--health-interval", "health_interval", "Between (30s).", "TIME", ""),
    Flag("--health-timeout", "health_timeout", "Of one check (30s).", "TIME", ""),
    Flag("--health-retries", "health_retries", "Until unhealthy (3).", "N", 0),
    Flag("--health-start-period", "health_start_period", "Failures do not count (0s).", "TIME", ""),
    Flag("--health-start-interval", "health_start_interval", "In the start period (5s).", "TIME", ""),
    Flag("--no-healthcheck", "no_healthcheck", "Not even the image's.", "", False),
)
FLAGS = (*RIGHTS, *NAMESPACES, *NAMES, *PROCESSORS_AND_MEMORY, *DEVICES, *HEALTH)
