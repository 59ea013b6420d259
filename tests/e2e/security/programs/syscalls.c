/* Calls that a container must not make; each in a child of its own. Prints "NAME ok" or "NAME ERRNO". Arguments are such
   that a call that is let through either succeeds without harm or fails with another error than EPERM and ENOSYS. */
#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static void report(const char *name, long result) {
    if (result >= 0) printf("%s ok\n", name);
    else printf("%s %d\n", name, errno);
    fflush(stdout);
}

#define TRY(name, ...)                                   \
    do {                                                 \
        pid_t child = fork();                            \
        if (child == 0) {                                \
            alarm(5);                                    \
            report(name, syscall(__VA_ARGS__));          \
            _exit(0);                                    \
        }                                                \
        waitpid(child, NULL, 0);                         \
    } while (0)

int main(void) {
    static char page[4096];
    TRY("unshare_user", SYS_unshare, CLONE_NEWUSER);
    TRY("unshare_mount", SYS_unshare, CLONE_NEWNS);
    TRY("unshare_net", SYS_unshare, CLONE_NEWNET);
    TRY("clone_user", SYS_clone, CLONE_NEWUSER | SIGCHLD, 0, 0, 0, 0);
    TRY("clone_pid", SYS_clone, CLONE_NEWPID | SIGCHLD, 0, 0, 0, 0);
    TRY("clone3", SYS_clone3, page, 88);
    TRY("setns", SYS_setns, 0, 0);
    TRY("mount", SYS_mount, "none", "/tmp", "tmpfs", 0, "");
    TRY("umount2", SYS_umount2, "/proc/kcore", 2);
    TRY("pivot_root", SYS_pivot_root, "/", "/");
    TRY("fsopen", SYS_fsopen, "tmpfs", 0);
    TRY("open_tree", SYS_open_tree, -100, "/", 1);
    TRY("move_mount", SYS_move_mount, -1, "", -1, "", 0);
    TRY("mount_setattr", SYS_mount_setattr, -1, "", 0, page, 32);
    TRY("keyctl", SYS_keyctl, 0, -3, 0);
    TRY("add_key", SYS_add_key, "user", "evil", "x", 1, -3);
    TRY("request_key", SYS_request_key, "user", "evil", 0, -3);
    TRY("bpf", SYS_bpf, 0, page, 64);
    TRY("perf_event_open", SYS_perf_event_open, page, 0, -1, -1, 0);
    TRY("userfaultfd", SYS_userfaultfd, 0);
    TRY("io_uring_setup", SYS_io_uring_setup, 1, page);
    TRY("open_by_handle_at", SYS_open_by_handle_at, -100, page, 0);
    TRY("init_module", SYS_init_module, page, 0, "");
    TRY("finit_module", SYS_finit_module, -1, "", 0);
    TRY("delete_module", SYS_delete_module, "nothing", 0);
    TRY("kexec_load", SYS_kexec_load, 0, 0, 0, 1UL << 60);
    TRY("reboot", SYS_reboot, 1, 2, 3, 0);
    TRY("swapon", SYS_swapon, "/nothing", 0);
    TRY("swapoff", SYS_swapoff, "/nothing");
    TRY("settimeofday", SYS_settimeofday, 0, 0);
    TRY("clock_settime", SYS_clock_settime, 99, page);
    TRY("acct", SYS_acct, "/nothing");
    TRY("quotactl", SYS_quotactl, 0, "/nothing", 0, 0);
    TRY("fanotify_init", SYS_fanotify_init, 0, 0);
    TRY("syslog", SYS_syslog, 3, page, sizeof page);
    TRY("lookup_dcookie", SYS_lookup_dcookie, 0, page, 1);
    TRY("move_pages", SYS_move_pages, 0, 0, 0, 0, 0, 0);
    TRY("mbind", SYS_mbind, 0, 0, 0, 0, 0, 0);
    TRY("personality", SYS_personality, 0x0040000);
    TRY("vmsplice", SYS_vmsplice, -1, 0, 0, 0);
    TRY("process_madvise", SYS_process_madvise, -1, 0, 0, 0, 0);
    TRY("pidfd_getfd", SYS_pidfd_getfd, -1, 0, 0);
    TRY("sethostname", SYS_sethostname, "evil", 4);
    TRY("socket_alg", SYS_socket, 38, SOCK_SEQPACKET, 0);
    TRY("socket_vsock", SYS_socket, 40, SOCK_STREAM, 0);
#ifdef __x86_64__
    TRY("iopl", SYS_iopl, 3);
    TRY("ioperm", SYS_ioperm, 0, 1, 1);
    TRY("x32_unshare", 0x40000000 | SYS_unshare, CLONE_NEWUSER);
    TRY("x32_keyctl", 0x40000000 | SYS_keyctl, 0, -3, 0);
    pid_t child = fork();
    if (child == 0) {
        int result;
        __asm__ volatile("int $0x80" : "=a"(result) : "a"(310), "b"(CLONE_NEWUSER) : "memory", "r8", "r9", "r10", "r11");
        errno = -result;
        report("i386_unshare", result);
        static unsigned int arguments[3] = {38, SOCK_SEQPACKET, 0};
        __asm__ volatile("int $0x80" : "=a"(result) : "a"(102), "b"(1), "c"((unsigned int)(unsigned long)arguments)
                         : "memory", "r8", "r9", "r10", "r11");
        errno = -result;
        report("i386_socketcall", result);
        _exit(0);
    }
    waitpid(child, NULL, 0);
#endif
    TRY("plain_fork", SYS_clone, SIGCHLD, 0, 0, 0, 0);
    TRY("plain_socket", SYS_socket, AF_INET, SOCK_STREAM, 0);
    TRY("plain_netlink", SYS_socket, AF_NETLINK, SOCK_RAW, 0);
    TRY("plain_personality", SYS_personality, 0xffffffff);
    TRY("plain_chroot", SYS_chroot, "/");
    return 0;
}
