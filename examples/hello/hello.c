/* A small web service: answers with a greeting and its host name, logs each request on standard output,
 * and ends at once on SIGTERM. It runs as the first process of a container, so it sets its own signal handlers. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile sig_atomic_t stopping;

static void on_signal(int number) { stopping = number; }

static void logf_line(const char *format, ...) {
    char when[32];
    time_t now = time(NULL);
    struct tm utc;
    va_list values;
    strftime(when, sizeof when, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&now, &utc));
    printf("%s ", when);
    va_start(values, format);
    vprintf(format, values);
    va_end(values);
    putchar('\n');
    fflush(stdout);
}

static void send_all(int client, const char *data, size_t length) {
    while (length > 0) {
        ssize_t sent = send(client, data, length, MSG_NOSIGNAL);
        if (sent <= 0)
            return;
        data += sent;
        length -= (size_t)sent;
    }
}

static void answer(int client, const char *peer, const char *greeting, const char *host) {
    char request[4096], method[8] = "", path[256] = "", body[1024], head[256];
    size_t have = 0;
    struct timeval patience = {.tv_sec = 5};
    setsockopt(client, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    setsockopt(client, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    do {
        ssize_t got = recv(client, request + have, sizeof request - 1 - have, 0);
        if (got <= 0)
            return;
        have += (size_t)got;
        request[have] = 0;
    } while (!strstr(request, "\r\n\r\n") && have < sizeof request - 1);
    if (sscanf(request, "%7[A-Z] %255[!-~]", method, path) != 2)
        return;

    int get = strcmp(method, "GET") == 0, status = 200;
    if (!get && strcmp(method, "HEAD") != 0) {
        status = 405;
        snprintf(body, sizeof body, "only GET and HEAD\n");
    } else if (strcmp(path, "/") == 0) {
        snprintf(body, sizeof body, "%s from %s\n", greeting, host);
    } else if (strcmp(path, "/healthz") == 0) {
        snprintf(body, sizeof body, "ok\n");
    } else {
        status = 404;
        snprintf(body, sizeof body, "nothing here; try /\n");
    }
    const char *reason = status == 200 ? "OK" : status == 404 ? "Not Found" : "Method Not Allowed";
    int length = snprintf(head, sizeof head,
                          "HTTP/1.1 %d %s\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: %zu\r\n"
                          "Connection: close\r\n\r\n",
                          status, reason, strlen(body));
    send_all(client, head, (size_t)length);
    if (get || status == 405)
        send_all(client, body, strlen(body));
    logf_line("%s %s %s %d", peer, method, path, status);
}

int main(void) {
    const char *greeting = getenv("GREETING"), *port = getenv("PORT");
    char host[256] = "", peer[INET6_ADDRSTRLEN];
    struct sigaction action = {.sa_handler = on_signal};
    sigset_t stops, before;
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    gethostname(host, sizeof host - 1);

    struct sockaddr_in here = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port ? port : "8080"))};
    int one = 1, server = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    setsockopt(server, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (server < 0 || bind(server, (struct sockaddr *)&here, sizeof here) < 0 || listen(server, 64) < 0) {
        perror("hello: can't listen");
        return 1;
    }
    logf_line("listening on port %s", port ? port : "8080");

    /* Signals are blocked but for the wait itself: none can slip in between the check and the wait. */
    sigemptyset(&stops);
    sigaddset(&stops, SIGTERM);
    sigaddset(&stops, SIGINT);
    sigprocmask(SIG_BLOCK, &stops, &before);
    while (!stopping) {
        fd_set ready;
        FD_ZERO(&ready);
        FD_SET(server, &ready);
        if (pselect(server + 1, &ready, NULL, NULL, NULL, &before) < 0)
            continue;
        struct sockaddr_in from;
        socklen_t size = sizeof from;
        int client = accept4(server, (struct sockaddr *)&from, &size, SOCK_CLOEXEC);
        if (client < 0)
            continue;
        inet_ntop(AF_INET, &from.sin_addr, peer, sizeof peer);
        answer(client, peer, greeting ? greeting : "Hello", host);
        close(client);
    }
    logf_line("signal %d: goodbye", (int)stopping);
    return 0;
}
