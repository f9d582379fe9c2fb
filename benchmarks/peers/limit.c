/* The least that a server on this machine can spend: one thread, epoll, no library, no protocol to speak of.
 *
 * A WebSocket client (RFC 6455) sends its name of 16 bytes first, and is answered "ok"; then messages whose first
 * 16 bytes name who gets them: a client, itself included; or 16 stars, for everybody else.  They arrive with the
 * name of the sender instead.  Over HTTP, the body of each POST is appended to a file, and answered when all that
 * came in the same round is on the disk.  What is to be sent to one connection goes out once a round.
 *
 * It trusts its clients: what is no such message ends the program.
 *
 * Usage: limit PORT FILE
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

enum { NAME = 16, CLIENTS = 1 << 15, TABLE = 1 << 16, EVENTS = 512, READ = 1 << 16, INPUT = 1 << 18 };

struct buffer { char *data; size_t len, cap; };
struct client { int fd, websocket, named, queued, full; char name[NAME]; struct buffer in, out; }; /* in: a part of a message */

static struct client *clients[CLIENTS], *table[TABLE], *to_flush[CLIENTS];
static struct client *to_answer[CLIENTS];
static int nclients, nflush, nanswers, loop, log_file;
static struct buffer appended;
static char input[INPUT];
static size_t ninput;
static unsigned long stored;
static const char *UPGRADED =
    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"; /* to the one key that the load has */

static void fail(const char *what) { perror(what); exit(1); }
static char *room(struct buffer *b, size_t size) {
    if (b->len + size > b->cap && !(b->data = realloc(b->data, b->cap = (b->len + size) * 2))) fail("realloc");
    return b->data + b->len;
}
static void add(struct buffer *b, const void *data, size_t size) { memcpy(room(b, size), data, size); b->len += size; }

static void send_later(struct client *c) { if (!c->queued) { c->queued = 1; to_flush[nflush++] = c; } }
static void watch(struct client *c, uint32_t events, int op) {
    struct epoll_event e = {.events = events, .data.ptr = c};
    if (epoll_ctl(loop, op, c->fd, &e)) fail("epoll_ctl");
}
static void flush(struct client *c) {
    ssize_t sent = send(c->fd, c->out.data, c->out.len, MSG_NOSIGNAL);
    if (sent < 0 && errno != EAGAIN) { c->out.len = 0; return; } /* it has gone */
    if (sent < 0) sent = 0;
    c->out.len -= sent;
    if (c->out.len) memmove(c->out.data, c->out.data + sent, c->out.len);
    if (c->full != (c->out.len > 0)) {
        c->full = c->out.len > 0;
        watch(c, c->full ? EPOLLIN | EPOLLOUT : EPOLLIN, EPOLL_CTL_MOD);
    }
}

static uint32_t place(const char *name) {
    uint64_t a, b;
    memcpy(&a, name, 8);
    memcpy(&b, name + 8, 8);
    return ((a ^ b * 31) * 0x9e3779b97f4a7c15u) >> 48;
}
static struct client *found(const char *name) {
    for (uint32_t at = place(name); table[at]; at = (at + 1) % TABLE)
        if (!memcmp(table[at]->name, name, NAME)) return table[at];
    return 0;
}
static void frame(struct client *c, const char *from, const char *rest, size_t size) {
    unsigned char head[4] = {0x82};
    size_t whole = NAME + size, n = 2;
    if (whole < 126) head[1] = whole;
    else { head[1] = 126; head[2] = whole >> 8; head[3] = whole; n = 4; }
    char *out = room(&c->out, n + whole);
    memcpy(out, head, n);
    memcpy(out + n, from, NAME);
    memcpy(out + n + NAME, rest, size);
    c->out.len += n + whole;
    send_later(c);
}
static void message(struct client *c, char *data, size_t size) {
    if (size < NAME) exit(3);
    if (!c->named) {
        memcpy(c->name, data, NAME);
        uint32_t at = place(data);
        while (table[at]) at = (at + 1) % TABLE;
        table[at] = c;
        c->named = 1;
        frame(c, c->name, "ok", 2);
    } else if (!memcmp(data, "****************", NAME)) {
        for (int i = 0; i < nclients; i++)
            if (clients[i] != c && clients[i]->named) frame(clients[i], c->name, data + NAME, size - NAME);
    } else {
        struct client *to = found(data);
        if (to) frame(to, c->name, data + NAME, size - NAME);
    }
}
static size_t frames(struct client *c) {
    size_t at = 0;
    for (;;) {
        unsigned char *p = (unsigned char *)input + at;
        size_t left = ninput - at, head = 6;
        if (left < head) return at;
        size_t size = p[1] & 127;
        if (size == 127 || !(p[1] & 128)) exit(3);
        if (size == 126) { head = 8; if (left < head) return at; size = p[2] << 8 | p[3]; }
        if (left < head + size) return at;
        unsigned char *payload = p + head;
        uint32_t mask;
        memcpy(&mask, payload - 4, 4);
        uint64_t wide = (uint64_t)mask << 32 | mask;
        size_t i = 0;
        for (; i + 8 <= size; i += 8) { uint64_t w; memcpy(&w, payload + i, 8); w ^= wide; memcpy(payload + i, &w, 8); }
        for (; i < size; i++) payload[i] ^= ((unsigned char *)&mask)[i & 3];
        if ((p[0] & 15) == 8) return ninput;
        message(c, (char *)payload, size);
        at += head + size;
    }
}
static size_t requests(struct client *c) {
    size_t at = 0;
    for (;;) {
        char *head = input + at, *end = memmem(head, ninput - at, "\r\n\r\n", 4);
        if (!end) return at;
        if (!strncmp(head, "GET", 3)) {
            add(&c->out, UPGRADED, strlen(UPGRADED));
            send_later(c);
            c->websocket = 1;
            return at + (end + 4 - head);
        }
        end[3] = 0;
        char *length = strcasestr(head, "\ncontent-length:");
        end[3] = '\n';
        size_t size = length ? strtoul(length + 16, 0, 10) : 0, whole = end + 4 - head + size;
        if (ninput - at < whole) return at;
        add(&appended, end + 4, size);
        if (nanswers == CLIENTS) exit(3);
        to_answer[nanswers++] = c;
        at += whole;
    }
}
static void store(void) {
    if (!nanswers) return;
    if (write(log_file, appended.data, appended.len) != (ssize_t)appended.len || fdatasync(log_file)) fail("append");
    appended.len = 0;
    for (int i = 0; i < nanswers; i++) {
        char body[64], answer[160];
        int size = sprintf(body, "{\"id\":%lu}", ++stored);
        add(&to_answer[i]->out, answer,
            sprintf(answer, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", size, body));
        send_later(to_answer[i]);
    }
    nanswers = 0;
}
static void gone(struct client *c) {
    for (int i = 0; i < nclients; i++) if (clients[i] == c) { clients[i] = clients[--nclients]; break; }
    for (int i = 0; i < nflush; i++) if (to_flush[i] == c) { to_flush[i] = to_flush[--nflush]; break; }
    for (int i = 0; i < nanswers; i++) if (to_answer[i] == c) to_answer[i--] = to_answer[--nanswers];
    close(c->fd);
    c->fd = -1;
    if (c->named) { /* all are put into their places anew */
        memset(table, 0, sizeof table);
        for (int i = 0; i < nclients; i++)
            if (clients[i]->named) {
                uint32_t at = place(clients[i]->name);
                while (table[at]) at = (at + 1) % TABLE;
                table[at] = clients[i];
            }
    }
    free(c->in.data);
    free(c->out.data);
    free(c);
}
static void readable(struct client *c) {
    if (c->in.len > INPUT - READ) exit(3);
    if (c->in.len) memcpy(input, c->in.data, c->in.len);
    ssize_t n = recv(c->fd, input + c->in.len, READ, 0);
    if (n < 0 && errno == EAGAIN) return;
    if (n <= 0) { gone(c); return; }
    ninput = c->in.len + n;
    size_t used = c->websocket ? frames(c) : requests(c);
    c->in.len = 0;
    if (used < ninput) add(&c->in, input + used, ninput - used);
}
static void accepted(int port) {
    int fd, one = 1;
    while ((fd = accept4(port, 0, 0, SOCK_NONBLOCK)) >= 0) {
        struct client *c = calloc(1, sizeof *c);
        if (!c || nclients == CLIENTS) exit(3);
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        c->fd = fd;
        clients[nclients++] = c;
        watch(c, EPOLLIN, EPOLL_CTL_ADD);
    }
}
int main(int argc, char **argv) {
    if (argc != 3) return 2;
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[1])), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int port = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), one = 1;
    setsockopt(port, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(port, (void *)&at, sizeof at) || listen(port, 4096)) fail("listen");
    if ((log_file = open(argv[2], O_WRONLY | O_CREAT | O_APPEND, 0600)) < 0) fail("open");
    struct rlimit files = {CLIENTS, CLIENTS};
    setrlimit(RLIMIT_NOFILE, &files);
    loop = epoll_create1(0);
    struct epoll_event events[EVENTS] = {{.events = EPOLLIN}};
    if (epoll_ctl(loop, EPOLL_CTL_ADD, port, events)) fail("epoll_ctl");
    for (;;) {
        int n = epoll_wait(loop, events, EVENTS, -1);
        for (int i = 0; i < n; i++) {
            struct client *c = events[i].data.ptr;
            if (!c) { accepted(port); continue; }
            if (events[i].events & EPOLLOUT) send_later(c);
            if (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) readable(c);
        }
        store();
        for (int i = 0; i < nflush; i++) { to_flush[i]->queued = 0; flush(to_flush[i]); }
        nflush = 0;
    }
}
