/* Set-user-ID root in the image: what a user becomes by it. */
#include <stdio.h>
#include <sys/types.h>
#include <unistd.h>

int main(void) {
    printf("%d %d %d\n", (int)getuid(), (int)geteuid(), setuid(0));
    return 0;
}
