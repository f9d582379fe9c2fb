/* Load for one server on loopback: one thread, epoll, no library.
 *
 * It measures what the server's processes spend (user + system time from the
 * kernel's CPU clocks) per operation, beside throughput and latency, and
 * prints one line of JSON.  Run it pinned to another core than the server.
 *
 * Modes
 *   relay   N callers with W calls in flight each -> one service -> back;
 *           -q is the port of the service, where that is another server
 *   fanout  one publisher with W publications in flight -> N subscribers,
 *           every second of which is on the port of -q
 *   append  N keep-alive HTTP connections, one POST in flight each, every
 *           second on the port of -q; over WebSocket, N connections with W
 *           acknowledged publications each
 *   jobs    N connections that add jobs to one work queue and do those they
 *           get, W of each connection at a time: added, delivered, done
 *   poll    N long polls wait on one channel, a POST every I milliseconds
 *   calls   N connections that make the calls in the file of -f, a line each
 *           without its type and id, again and again; before, all in the file
 *           of -F once, line i by connection i % N, W at a time; without -f it only
 *           says "prepared" then, and reads what comes
 *   idle    N connections that say nothing: memory and CPU to connect
 * With -b B so many connect at a time, else one after the other.
 * With -r R the calls, or the publications of a fan-out, begin at R a second,
 * whether others are answered or not, and each latency counts from when it was
 * due: who waits for answers does not see how long others would have waited.
 * Kinds (what is spoken): owlmeans, sio, micro, nats and limit over WebSocket;
 * mqtt over TCP; ganomede, nchan, and server-sent events, sse and nchansse, over
 * HTTP.  micro is MicroStream's request and response on Socket.IO, limit what
 * peers/limit.c says.
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
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum role { CALLER, SERVICE, SUBSCRIBER, PUBLISHER, POSTER, POLLER, SILENT };
enum { FLIGHT = 1024, PIDS = 16, MEGABYTE = 1 << 20 };

struct buffer { char *data; size_t len, cap, at; };

struct conn {
    int fd, index, handshaken, greeted, ready;
    enum role role;
    struct buffer in, out, stream;      /* stream: what NATS frames carry */
    uint64_t sent_at[FLIGHT];
    uint64_t sent, answered;
    uint32_t mask;
    char stamp[160];                    /* nchan: validators of the next poll */
    long after;                         /* ganomede: cursor of the next poll */
};

struct kind {
    const char *name;
    enum { OVER_HTTP, OVER_WEBSOCKET, OVER_TCP } carrier;
    void (*open)(struct conn *);
    void (*call)(struct conn *);
    void (*frame)(struct conn *, char *, size_t);
    void (*publish)(struct conn *);
    void (*answer)(struct conn *, char *head, char *body, size_t size);
};

static struct { const char *mode, *path; int port, peer, conns, window, size, interval, backlog; double seconds, warm, rate; } opt =
    {"relay", "/", 0, 0, 32, 1, 120, 100, 1, 3, 1, 0};
static struct script { char **lines; size_t count, at; } first, script;
static int preparing, timer = -1;
static uint64_t pace, due, longest;     /* ns between two; when what begins now should have begun; the worst latency */
static const struct kind *kind;
static struct conn *conns;
static int nconns, nreceivers, loop, pids[PIDS], npids, measuring;
static uint64_t measured, errors, histogram[8192];
static uint64_t published_at[1 << 16], published, delivered, complete;
static char filler[MEGABYTE];

static uint64_t now(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec * 1000000000ull + t.tv_nsec; }
static double seconds_of(clockid_t c) { struct timespec t; return clock_gettime(c, &t) ? 0 : t.tv_sec + t.tv_nsec * 1e-9; }
static double servers_cpu(void) { double sum = 0; for (int i = 0; i < npids; i++) { clockid_t c; if (!clock_getcpuclockid(pids[i], &c)) sum += seconds_of(c); } return sum; }
static void fail(const char *what) { perror(what); exit(1); }
static void complain(const char *what, const char *text, size_t size) { if (errors++ < 5) fprintf(stderr, "%s: %.*s\n", what, (int)(size < 300 ? size : 300), text); }

static long servers_rss(void) {
    long sum = 0;
    for (int i = 0; i < npids; i++) {
        char name[64]; long all, resident;
        snprintf(name, sizeof name, "/proc/%d/statm", pids[i]);
        FILE *f = fopen(name, "r");
        if (!f) continue;
        if (fscanf(f, "%ld %ld", &all, &resident) == 2) sum += resident * 4;
        fclose(f);
    }
    return sum;
}

/* Latencies: 1 us steps below 1 ms, then 128 steps an octave. */
static void observe(uint64_t ns) {
    if (ns > longest) longest = ns;
    uint64_t us = ns / 1000; int slot = us;
    if (us >= 1024) { int e = 63 - __builtin_clzll(us); slot = 1024 + (e - 10) * 128 + ((us >> (e - 7)) & 127); }
    histogram[slot < 8192 ? slot : 8191]++;
}
static double quantile(double q) {
    uint64_t all = 0, seen = 0;
    for (int i = 0; i < 8192; i++) all += histogram[i];
    for (int i = 0; i < 8192; i++) {
        seen += histogram[i];
        if (seen > all * q) { if (i < 1024) return i; int e = (i - 1024) / 128 + 10, m = (i - 1024) % 128; return (double)((uint64_t)(128 + m) << (e - 7)); }
    }
    return 0;
}

static char *room(struct buffer *b, size_t size) {
    if (b->at == b->len) b->at = b->len = 0;
    if (b->len + size > b->cap) { b->cap = (b->len + size) * 2 + 512; if (!(b->data = realloc(b->data, b->cap))) fail("realloc"); }
    return b->data + b->len;
}
static void append(struct buffer *b, const void *data, size_t size) { memcpy(room(b, size), data, size); b->len += size; }
static void consumed(struct buffer *b, size_t size) { memmove(b->data, b->data + size, b->len - size); b->len -= size; }

static void watch(struct conn *c, uint32_t events, int op) { struct epoll_event e = {.events = events, .data.ptr = c}; if (epoll_ctl(loop, op, c->fd, &e)) fail("epoll_ctl"); }
static void flush(struct conn *c) {
    while (c->out.at < c->out.len) {
        ssize_t n = send(c->fd, c->out.data + c->out.at, c->out.len - c->out.at, MSG_NOSIGNAL);
        if (n < 0) { if (errno != EAGAIN) fail("send"); watch(c, EPOLLIN | EPOLLOUT, EPOLL_CTL_MOD); return; }
        c->out.at += n;
    }
    c->out.at = c->out.len = 0;
}

static void frame(struct conn *c, int opcode, const char *payload, size_t size) {
    if (kind->carrier == OVER_TCP) { append(&c->out, payload, size); return; }
    unsigned char head[14]; int n = 0;
    head[n++] = 0x80 | opcode;
    if (size < 126) head[n++] = 0x80 | size;
    else if (size < 65536) { head[n++] = 0x80 | 126; head[n++] = size >> 8; head[n++] = size; }
    else { head[n++] = 0x80 | 127; for (int i = 7; i >= 0; i--) head[n++] = (uint64_t)size >> (8 * i); }
    c->mask = c->mask * 1664525u + 1013904223u;
    memcpy(head + n, &c->mask, 4);
    append(&c->out, head, n + 4);
    char *masked = room(&c->out, size); size_t i = 0;
    for (; i + 4 <= size; i += 4) { uint32_t word; memcpy(&word, payload + i, 4); word ^= c->mask; memcpy(masked + i, &word, 4); }
    for (; i < size; i++) masked[i] = payload[i] ^ ((char *)&c->mask)[i & 3];
    c->out.len += size;
}
static void say(struct conn *c, const char *text) { frame(c, 1, text, strlen(text)); }

/* A message of opt.size bytes: the head, filler, the tail. */
static size_t fill(char *out, int head, const char *tail) {
    int pad = opt.size - head - (int)strlen(tail);
    if (pad < 1) pad = 1;
    memcpy(out + head, filler, pad);
    strcpy(out + head + pad, tail);
    return head + pad + strlen(tail);
}
static uint64_t begun(void) { return due ? due : now(); }
static void sent(struct conn *c) { c->sent_at[c->sent++ % FLIGHT] = begun(); }
static void answered(struct conn *c) {
    if (measuring) { measured++; observe(now() - c->sent_at[c->answered % FLIGHT]); }
    c->answered++;
}
static void call_again(struct conn *c) { if (!opt.rate) kind->call(c); }
static void heard(void) {  /* one delivery of a fan-out */
    if (measuring) measured++;
    if (++delivered % nreceivers) return;
    if (measuring) observe(now() - published_at[complete % (1 << 16)]);
    complete++;
    if (opt.rate) return;
    kind->publish(&conns[nconns - 1]);
    flush(&conns[nconns - 1]);
}
static char *member(char *text, size_t size, const char *key) { char *p = memmem(text, size, key, strlen(key)); return p ? p + strlen(key) : 0; }
static size_t value(const char *p, const char *end) {  /* the extent of one JSON value */
    int depth = 0, quoted = 0; const char *q = p;
    for (; q < end; q++) {
        if (quoted) { if (*q == '\\') q++; else if (*q == '"') { quoted = 0; if (!depth) return q + 1 - p; } continue; }
        if (*q == '"') quoted = 1;
        else if (*q == '[' || *q == '{') depth++;
        else if (*q == ']' || *q == '}') { if (!depth) return q - p; if (!--depth) return q + 1 - p; }
        else if (*q == ',' && !depth) return q - p;
    }
    return q - p;
}
static void check_id(struct conn *c, char *p, size_t n) {
    char want[48];
    snprintf(want, sizeof want, "c%d-%lu\"", c->index, c->answered);
    if (!memmem(p, n, want, strlen(want))) complain("not the answer awaited", p, n);
}

/* owlmeans: the native dialect */
static void owl_open(struct conn *c) {
    if (c->role == SERVICE) say(c, "{\"type\":\"call\",\"id\":\"r\",\"method\":\"broker.register\",\"payload\":[[\"svc.echo\"]]}");
    else if (c->role == SUBSCRIBER) say(c, "{\"type\":\"call\",\"id\":\"s\",\"method\":\"broker.subscribe\",\"payload\":[\"news\"]}");
    else if (opt.mode[0] == 'j') {
        char m[200];
        sprintf(m, "{\"type\":\"call\",\"id\":\"k\",\"method\":\"broker.consume\",\"payload\":[\"jobs\",{\"ack\":true,\"prefetch\":%d}]}", opt.window);
        say(c, m);
    } else c->ready = 1;
}
/* A job says when it was added: whoever gets it measures the whole cycle. */
static void owl_job(struct conn *c) {
    static char m[MEGABYTE];
    int n = sprintf(m, "{\"type\":\"call\",\"id\":\"e\",\"method\":\"broker.enqueue\",\"payload\":[\"jobs\",[\"%lu\",\"", now());
    frame(c, 1, m, fill(m, n, "\"]]}"));
}
static void owl_worked(struct conn *c, char *p, size_t n) {
    static char m[512];
    if (member(p, n, "\"type\":\"message\"")) {
        char *id = member(p, n, "\"id\":\""), *added = member(p, n, "\"payload\":[\"");
        if (!id || !added) { complain("no job", p, n); return; }
        c->sent_at[c->sent++ % FLIGHT] = strtoull(added, 0, 10);
        frame(c, 1, m, sprintf(m, "{\"type\":\"call\",\"id\":\"d\",\"method\":\"broker.done\",\"payload\":[\"%.*s\"]}", (int)(strchr(id, '"') - id), id));
    } else if (member(p, n, "\"type\":\"result\",\"id\":\"d\"")) { answered(c); owl_job(c); }
    else if (!member(p, n, "\"duplicate\":false")) complain("not stored or not done", p, n);
}
/* The next line of the script; of what is done once before, the next of this connection. */
static void owl_line(struct conn *c) {
    static char m[MEGABYTE];
    size_t at = preparing ? c->sent * nconns + c->index : script.at++ % script.count;
    if (preparing && at >= first.count) return;
    int n = snprintf(m, sizeof m, "{\"type\":\"call\",\"id\":\"c%d-%lu\",%s}", c->index, c->sent, (preparing ? &first : &script)->lines[at]);
    sent(c);
    frame(c, 1, m, n);
}
/* Answers come in another order than calls where these wait for the store: with -r, any answer counts as the oldest's. */
static void owl_line_answered(struct conn *c, char *p, size_t n) {
    if (n < 16 || (memcmp(p, "{\"type\":\"result\"", 16) && memcmp(p, "{\"type\":\"error\"", 15))) return;
    if (p[9] != 'r') complain("refused", p, n);
    answered(c);
    if (preparing) owl_line(c); else call_again(c);
}
static void owl_call(struct conn *c) {
    static char m[MEGABYTE];
    if (opt.mode[0] == 'j') { owl_job(c); return; }
    if (opt.mode[0] == 'c') { owl_line(c); return; }
    if (opt.mode[0] == 'a') {
        int k = sprintf(m, "{\"type\":\"call\",\"id\":\"c%d-%lu\",\"method\":\"broker.publish\",\"payload\":[\"bench-%d\",[\"", c->index, c->sent, c->index % 100);
        sent(c);
        frame(c, 1, m, fill(m, k, "\"],{\"durable\":true}]}"));
        return;
    }
    int n = sprintf(m, "{\"type\":\"call\",\"id\":\"c%d-%lu\",\"method\":\"svc.echo\",\"payload\":[\"", c->index, c->sent);
    sent(c);
    frame(c, 1, m, fill(m, n, "\"]}"));
}
static void owl_publish(struct conn *c) {
    static char m[MEGABYTE];
    published_at[published++ % (1 << 16)] = begun();
    frame(c, 1, m, fill(m, sprintf(m, "{\"type\":\"event\",\"event\":\"news\",\"payload\":[\""), "\"]}"));
}
static void owl_frame(struct conn *c, char *p, size_t n) {
    if (!c->ready) { if (!member(p, n, "\"type\":\"result\"")) complain("refused", p, n); c->ready = 1; return; }
    if (opt.mode[0] == 'j') { owl_worked(c, p, n); return; }
    if (opt.mode[0] == 'c') { owl_line_answered(c, p, n); return; }
    if (c->role == CALLER) {
        if (opt.mode[0] == 'a' && !member(p, n, "\"duplicate\":false")) complain("not stored", p, n);
        check_id(c, p, n); answered(c); call_again(c);
        return;
    }
    if (c->role == SUBSCRIBER) { heard(); return; }
    if (c->role != SERVICE) return;
    static char m[MEGABYTE];
    char *id = member(p, n, "\"id\":\""), *payload = member(p, n, "\"payload\":");
    if (!id || !payload) { complain("no call", p, n); return; }
    frame(c, 1, m, sprintf(m, "{\"type\":\"result\",\"id\":\"%.*s\",\"payload\":%.*s}", (int)(strchr(id, '"') - id), id, (int)value(payload, p + n), payload));
}

/* sio: Socket.IO 5 over Engine.IO 4, with the hub in peers/socketio_hub.js */
static void sio_open(struct conn *c) { c->ready = 0; }
static void sio_call(struct conn *c) {
    static char m[MEGABYTE];
    int n = sprintf(m, "42[\"call\",{\"id\":\"c%d-%lu\",\"method\":\"svc.echo\",\"payload\":[\"", c->index, c->sent);
    sent(c);
    frame(c, 1, m, fill(m, n, "\"]}]"));
}
static void sio_publish(struct conn *c) {
    static char m[MEGABYTE];
    published_at[published++ % (1 << 16)] = begun();
    frame(c, 1, m, fill(m, sprintf(m, "42[\"publish\",{\"event\":\"news\",\"payload\":[\""), "\"]}]"));
}
static void sio_frame(struct conn *c, char *p, size_t n) {
    if (n && p[0] == '0') { say(c, "40"); return; }
    if (n == 1 && p[0] == '2') { say(c, "3"); return; }
    if (n > 1 && p[0] == '4' && p[1] == '0') {
        if (c->role == SERVICE) say(c, "42[\"register\",\"svc.echo\"]");
        else if (c->role == SUBSCRIBER) say(c, "42[\"subscribe\",\"news\"]");
        else c->ready = 1;
        return;
    }
    if (!c->ready) { c->ready = 1; return; }
    if (c->role == CALLER) { check_id(c, p, n); answered(c); call_again(c); return; }
    if (c->role == SUBSCRIBER) { heard(); return; }
    if (c->role != SERVICE) return;
    static char m[MEGABYTE];
    char *id = member(p, n, "\"id\":\""), *payload = member(p, n, "\"payload\":");
    if (!id || !payload) { complain("no call", p, n); return; }
    frame(c, 1, m, sprintf(m, "42[\"result\",{\"id\":\"%.*s\",\"payload\":%.*s}]", (int)(strchr(id, '"') - id), id, (int)value(payload, p + n), payload));
}

/* micro: MicroStream over Socket.IO; the service is called "svc", each caller by its number */
static void micro_call(struct conn *c) {
    static char m[MEGABYTE];
    int n = sprintf(m, "42[\"request\",{\"targetService\":\"svc\",\"payload\":{\"id\":\"c%d-%lu\",\"event\":\"echo\",\"data\":[\"", c->index, c->sent);
    sent(c);
    frame(c, 1, m, fill(m, n, "\"]}}]"));
}
static void micro_frame(struct conn *c, char *p, size_t n) {
    if (n && p[0] == '0') { say(c, "40"); return; }
    if (n == 1 && p[0] == '2') { say(c, "3"); return; }
    if (n > 1 && p[0] == '4' && p[1] == '0') { c->ready = 1; return; }
    if (c->role == CALLER) { check_id(c, p, n); answered(c); call_again(c); return; }
    static char m[MEGABYTE];
    char *id = member(p, n, "\"id\":\""), *data = member(p, n, "\"data\":");
    if (!id || !data) { complain("no request", p, n); return; }
    frame(c, 1, m, sprintf(m, "42[\"response\",{\"id\":\"%.*s\",\"response\":%.*s}]", (int)(strchr(id, '"') - id), id, (int)value(data, p + n), data));
}

/* nats: the NATS text protocol in binary frames; a frame is a piece of a stream.  What is appended goes to the
 * JetStream stream "bench", in a file, which the first connection makes. */
#define STREAM "{\"name\":\"bench\",\"subjects\":[\"bench.*\"],\"storage\":\"file\"}"
/* Jobs are in the work-queue stream "work", whose consumer pushes each to one of the group; an acknowledgement is
 * answered, as "done" is. */
#define WORK "{\"name\":\"work\",\"subjects\":[\"jobs\"],\"storage\":\"file\",\"retention\":\"workqueue\"}"
#define CONSUMER "{\"stream_name\":\"work\",\"config\":{\"durable_name\":\"w\",\"deliver_subject\":\"todo\",\"deliver_group\":\"g\",\"ack_policy\":\"explicit\",\"max_ack_pending\":20000}}"
static int makes_stream(struct conn *c) { return strchr("aj", opt.mode[0]) && !c->index; }
static void nats_open(struct conn *c) { (void)c; }
static void nats_job(struct conn *c) {
    static char m[MEGABYTE], body[MEGABYTE];
    size_t size = fill(body, sprintf(body, "[\"%lu\",\"", now()), "\"]");
    int n = sprintf(m, "PUB jobs _INBOX.c%d.e %zu\r\n", c->index, size);
    memcpy(m + n, body, size);
    memcpy(m + n + size, "\r\n", 2);
    frame(c, 2, m, n + size + 2);
}
static void nats_worked(struct conn *c, char *line, char *body, size_t size) {
    char m[256], subject[64], reply[128]; int sid = 0;
    if (sscanf(line, "MSG %63s %d %127s", subject, &sid, reply) < 2) { complain("no message", line, 80); return; }
    if (sid == 2) {
        c->sent_at[c->sent++ % FLIGHT] = strtoull(body + 2, 0, 10);
        frame(c, 2, m, sprintf(m, "PUB %s _INBOX.c%d.d 4\r\n+ACK\r\n", reply, c->index));
        return;
    }
    char kind = subject[strlen(subject) - 1];
    if (memmem(body, size, "\"error\"", 7)) complain("refused", body, size);
    if (kind == 'k') c->ready = 1;
    else if (kind == 'd') { answered(c); nats_job(c); }
    else if (kind == 'e' && !memmem(body, size, "\"seq\"", 5)) complain("not stored", body, size);
}
static void nats_call(struct conn *c) {
    static char m[MEGABYTE], body[MEGABYTE];
    if (opt.mode[0] == 'j') { nats_job(c); return; }
    size_t size = fill(body, sprintf(body, "{\"id\":\"c%d-%lu\",\"payload\":[\"", c->index, c->sent), "\"]}");
    char subject[32] = "svc.echo";
    if (opt.mode[0] == 'a') sprintf(subject, "bench.%d", c->index % 100);
    int n = sprintf(m, "PUB %s _INBOX.c%d.%lu %zu\r\n", subject, c->index, c->sent, size);
    sent(c);
    memcpy(m + n, body, size);
    memcpy(m + n + size, "\r\n", 2);
    frame(c, 2, m, n + size + 2);
}
static void nats_publish(struct conn *c) {
    static char m[MEGABYTE], body[MEGABYTE];
    size_t size = fill(body, sprintf(body, "{\"payload\":[\""), "\"]}");
    published_at[published++ % (1 << 16)] = begun();
    int n = sprintf(m, "PUB news %zu\r\n", size);
    memcpy(m + n, body, size);
    memcpy(m + n + size, "\r\n", 2);
    frame(c, 2, m, n + size + 2);
}
static void nats_message(struct conn *c, char *line, char *body, size_t size) {
    if (opt.mode[0] == 'j') { nats_worked(c, line, body, size); return; }
    if (c->role == CALLER && opt.mode[0] == 'a') {
        char want[48];
        snprintf(want, sizeof want, "_INBOX.c%d.%lu ", c->index, c->answered);
        if (!c->ready) { if (memmem(body, size, "\"error\"", 7)) complain("no stream", body, size); c->ready = 1; return; }
        if (!strstr(line, want) || !memmem(body, size, "\"seq\"", 5)) complain("not stored", body, size);
        answered(c); call_again(c);
    } else if (c->role == CALLER) { check_id(c, body, size); answered(c); call_again(c); }
    else if (c->role == SUBSCRIBER) heard();
    else if (c->role == SERVICE) {
        static char m[MEGABYTE]; char reply[64];
        if (sscanf(line, "MSG %*s %*s %63s", reply) != 1) { complain("no reply subject", line, 80); return; }
        int n = sprintf(m, "PUB %s %zu\r\n", reply, size);
        memcpy(m + n, body, size);
        memcpy(m + n + size, "\r\n", 2);
        frame(c, 2, m, n + size + 2);
    }
}
static void nats_frame(struct conn *c, char *p, size_t n) {
    append(&c->stream, p, n);
    size_t at = 0;
    for (;;) {
        char *line = c->stream.data + at, *end = memmem(line, c->stream.len - at, "\r\n", 2);
        if (!end) break;
        size_t head = end + 2 - line;
        if (!strncmp(line, "MSG ", 4)) {
            char *last = memrchr(line, ' ', end - line);
            size_t size = atol(last + 1);
            if (c->stream.len - at < head + size + 2) break;
            *end = 0;
            nats_message(c, line, end + 2, size);
            at += head + size + 2;
            continue;
        }
        if (!strncmp(line, "INFO", 4)) {
            char m[1024];
            int k = sprintf(m, "CONNECT {\"verbose\":false,\"pedantic\":false,\"echo\":true,\"protocol\":1}\r\n");
            if (c->role == SERVICE) k += sprintf(m + k, "SUB svc.echo 1\r\n");
            else if (c->role == SUBSCRIBER) k += sprintf(m + k, "SUB news 1\r\n");
            else if (c->role == CALLER) k += sprintf(m + k, "SUB _INBOX.c%d.* 1\r\n", c->index);
            if (opt.mode[0] == 'j') k += sprintf(m + k, "SUB todo g 2\r\n");
            if (opt.mode[0] == 'j' && makes_stream(c)) {
                k += sprintf(m + k, "PUB $JS.API.STREAM.CREATE.work _INBOX.c0.s %zu\r\n" WORK "\r\n", sizeof WORK - 1);
                k += sprintf(m + k, "PUB $JS.API.CONSUMER.DURABLE.CREATE.work.w _INBOX.c0.k %zu\r\n" CONSUMER "\r\n", sizeof CONSUMER - 1);
            } else if (makes_stream(c)) k += sprintf(m + k, "PUB $JS.API.STREAM.CREATE.bench _INBOX.c0.0 %zu\r\n" STREAM "\r\n", sizeof STREAM - 1);
            k += sprintf(m + k, "PING\r\n");
            frame(c, 2, m, k);
        } else if (!strncmp(line, "PONG", 4)) c->ready = c->ready || !makes_stream(c);
        else if (!strncmp(line, "PING", 4)) frame(c, 2, "PONG\r\n", 6);
        else complain("nats", line, head);
        at += head;
    }
    if (at) consumed(&c->stream, at);
}

/* limit: names of 16 bytes, then anything; see peers/limit.c */
#define EVERYBODY "****************"
#define THE_SERVICE "the service     "
static void limit_open(struct conn *c) {
    char name[17];
    if (c->role == SERVICE) strcpy(name, THE_SERVICE); else sprintf(name, "client %-9d", c->index);
    frame(c, 2, name, 16);
}
static void limit_call(struct conn *c) {
    static char m[MEGABYTE];
    sent(c);
    frame(c, 2, m, fill(m, sprintf(m, THE_SERVICE "c%d-%lu\",\"", c->index, c->sent - 1), "\""));
}
static void limit_publish(struct conn *c) {
    static char m[MEGABYTE];
    published_at[published++ % (1 << 16)] = begun();
    frame(c, 2, m, fill(m, sprintf(m, EVERYBODY "\""), "\""));
}
static void limit_frame(struct conn *c, char *p, size_t n) {
    if (!c->ready) { c->ready = 1; return; }
    if (c->role == CALLER) { check_id(c, p, n); answered(c); call_again(c); }
    else if (c->role == SUBSCRIBER) heard();
    else if (c->role == SERVICE) frame(c, 2, p, n); /* back to whom it came from */
}

/* mqtt: MQTT 3.1.1, quality of service 0 */
static void mqtt_packet(struct conn *c, int kind_and_flags, const char *data, size_t size) {
    static char m[MEGABYTE];
    size_t n = 0, left = size;
    m[n++] = kind_and_flags;
    do { m[n++] = (left & 127) | (left > 127 ? 128 : 0); left >>= 7; } while (left);
    memcpy(m + n, data, size);
    frame(c, 2, m, n + size);
}
static size_t mqtt_text(char *out, const char *text) { size_t n = strlen(text); out[0] = n >> 8; out[1] = n; memcpy(out + 2, text, n); return n + 2; }
static void mqtt_open(struct conn *c) {
    char m[64], name[16];
    size_t n = mqtt_text(m, "MQTT");
    memcpy(m + n, "\4\2\0\0", 4);  /* version, clean session, no keep-alive */
    sprintf(name, "c%d", c->index);
    mqtt_packet(c, 0x10, m, n + 4 + mqtt_text(m + n + 4, name));
}
static void mqtt_publish(struct conn *c) {
    static char m[MEGABYTE];
    published_at[published++ % (1 << 16)] = begun();
    size_t n = mqtt_text(m, "news");
    mqtt_packet(c, 0x30, m, n + fill(m + n, sprintf(m + n, "[\""), "\"]"));
}
static void mqtt_read(struct conn *c, int type) {
    char m[32] = {0, 1};
    if (type == 2 && c->role == SUBSCRIBER) { size_t n = 2 + mqtt_text(m + 2, "news"); m[n++] = 0; mqtt_packet(c, 0x82, m, n); }
    else if (type == 2 || type == 9) c->ready = 1;
    else if (type == 3) heard();
    else complain("mqtt", "another packet", 14);
}
static void mqtt_frame(struct conn *c, char *p, size_t n) {
    append(&c->stream, p, n);
    size_t at = 0;
    for (;;) {
        unsigned char *q = (unsigned char *)c->stream.data + at;
        size_t left = c->stream.len - at, size = 0, head = 1; int shift = 0;
        while (head < left && q[head] & 128) { size |= (size_t)(q[head++] & 127) << shift; shift += 7; }
        if (head >= left) break;
        size |= (size_t)q[head++] << shift;
        if (left < head + size) break;
        mqtt_read(c, q[0] >> 4);
        at += head + size;
    }
    if (at) consumed(&c->stream, at);
}

/* ganomede: the event log over HTTP, ours and the original's alike */
static void post(struct conn *c, const char *path, const char *type, const char *body, size_t size) {
    char head[512];
    int n = sprintf(head, "POST %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Type: %s\r\nContent-Length: %zu\r\n\r\n", path, opt.port, type, size);
    append(&c->out, head, n);
    append(&c->out, body, size);
}
static void gano_post(struct conn *c, const char *channel) {
    static char m[MEGABYTE];
    int n = sprintf(m, "{\"clientId\":\"w%d\",\"secret\":\"1234\",\"channel\":\"%s\",\"from\":\"svc/v1\",\"type\":\"add\",\"data\":{\"a\":\"", c->index, channel);
    post(c, "/events/v1/events", "application/json", m, fill(m, n, "\"}}"));
}
static void gano_call(struct conn *c) { char channel[32]; sprintf(channel, "bench-%d", c->index % 100); sent(c); gano_post(c, channel); }
static void gano_publish(struct conn *c) { published_at[published++ % (1 << 16)] = begun(); gano_post(c, "news"); }
static void gano_poll(struct conn *c) {
    char m[512];
    append(&c->out, m, sprintf(m, "GET /events/v1/events?channel=news&after=%ld&clientId=cl-%d&secret=1234 HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nAccept: application/json\r\n\r\n", c->after, c->index, opt.port));
}
static void polled(int events) {
    if (!events) return;
    if (measuring) { measured++; observe(now() - published_at[(published - 1) % (1 << 16)]); }
}
static void gano_answer(struct conn *c, char *head, char *body, size_t size) {
    if (strncmp(head + 9, "200", 3)) complain("status", head, 200);
    if (c->role == CALLER) { answered(c); call_again(c); return; }
    if (c->role == PUBLISHER) return;
    char *id = 0;
    for (char *p = body; (p = member(p, body + size - p, "\"id\":")); ) id = p;
    if (id) c->after = atol(id);
    polled(id != 0);
    gano_poll(c);
}
static void gano_open(struct conn *c) { c->ready = 1; }

/* nchan: long polls of nginx, memory only; ETag and Last-Modified are the cursor */
static void nchan_publish(struct conn *c) {
    static char m[MEGABYTE];
    published_at[published++ % (1 << 16)] = begun();
    post(c, "/pub/news", "application/json", m, fill(m, sprintf(m, "{\"a\":\""), "\"}"));
}
static void nchan_poll(struct conn *c) {
    char m[512];
    append(&c->out, m, sprintf(m, "GET /sub/news HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n%s\r\n", opt.port, c->stamp));
}
static void nchan_answer(struct conn *c, char *head, char *body, size_t size) {
    (void)size;
    if (head[9] != '2' && head[9] != '3') complain("status", head, 200);
    if (c->role == CALLER) { answered(c); return; }
    if (c->role == PUBLISHER) return;
    char *tag = strcasestr(head, "\netag: "), *date = strcasestr(head, "\nlast-modified: ");
    if (tag && tag < body && date && date < body)
        sprintf(c->stamp, "If-None-Match: %.*s\r\nIf-Modified-Since: %.*s\r\n", (int)(strchr(tag + 1, '\r') - tag - 7), tag + 7, (int)(strchr(date + 1, '\r') - date - 16), date + 16);
    polled(!strncmp(head + 9, "200", 3));
    nchan_poll(c);
}

/* Server-sent events: each subscriber has one answer without end; what is published has a brace first, and no other */
static void sse_open(struct conn *c) {
    char m[512];
    if (c->role != SUBSCRIBER) { c->ready = 1; return; }
    append(&c->out, m, sprintf(m, "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nAccept: text/event-stream\r\n\r\n", opt.path, opt.port));
}
static void sse_stream(struct conn *c, char *data, size_t size) {
    (void)data, (void)size;
    if (!c->ready) {
        char *end = memmem(c->in.data, c->in.len, "\r\n\r\n", 4);
        if (!end) return;
        if (strncmp(c->in.data + 9, "200", 3)) { complain("status", c->in.data, c->in.len); exit(5); }
        consumed(&c->in, end + 4 - c->in.data);
        c->ready = 1;
    }
    char *p = c->in.data, *end = p + c->in.len;
    for (char *q; (q = memmem(p, end - p, "data: {", 7)); p = q + 7) heard();
    if (end - p > 6) p = end - 6;  /* the begin of what is cut in two */
    consumed(&c->in, p - c->in.data);
}
static void sse_publish(struct conn *c) {
    static char m[MEGABYTE];
    published_at[published++ % (1 << 16)] = begun();
    post(c, "/v1/topics/news", "application/json", m, fill(m, sprintf(m, "{\"a\":\""), "\"}"));
}
static void sse_answer(struct conn *c, char *head, char *body, size_t size) {
    (void)c, (void)body, (void)size;
    if (head[9] != '2') complain("status", head, 200);
}

static const struct kind kinds[] = {
    {"owlmeans", OVER_WEBSOCKET, owl_open, owl_call, owl_frame, owl_publish, 0},
    {"sio", OVER_WEBSOCKET, sio_open, sio_call, sio_frame, sio_publish, 0},
    {"micro", OVER_WEBSOCKET, sio_open, micro_call, micro_frame, 0, 0},
    {"nats", OVER_WEBSOCKET, nats_open, nats_call, nats_frame, nats_publish, 0},
    {"limit", OVER_WEBSOCKET, limit_open, limit_call, limit_frame, limit_publish, 0},
    {"mqtt", OVER_TCP, mqtt_open, 0, mqtt_frame, mqtt_publish, 0},
    {"ganomede", OVER_HTTP, gano_open, gano_call, 0, gano_publish, gano_answer},
    {"nchan", OVER_HTTP, gano_open, 0, 0, nchan_publish, nchan_answer},
    {"sse", OVER_HTTP, sse_open, 0, sse_stream, sse_publish, sse_answer},
    {"nchansse", OVER_HTTP, sse_open, 0, sse_stream, nchan_publish, sse_answer},
};

static void read_frames(struct conn *c) {
    size_t at = 0;
    for (;;) {
        size_t left = c->in.len - at, head = 2;
        unsigned char *p = (unsigned char *)c->in.data + at;
        if (left < 2) break;
        uint64_t size = p[1] & 127;
        if (size == 126) { head = 4; if (left < head) break; size = p[2] << 8 | p[3]; }
        else if (size == 127) { head = 10; if (left < head) break; size = 0; for (int i = 2; i < 10; i++) size = size << 8 | p[i]; }
        if (left < head + size) break;
        int opcode = p[0] & 15;
        if (opcode == 8) { complain("closed by the server", (char *)p + head + 2, size > 2 ? size - 2 : 0); exit(3); }
        else if (opcode == 9) frame(c, 10, (char *)p + head, size);
        else if (opcode <= 2) kind->frame(c, (char *)p + head, size);
        at += head + size;
    }
    if (at) consumed(&c->in, at);
}
static void read_answers(struct conn *c) {
    size_t at = 0;
    for (;;) {
        char *head = c->in.data + at, *end = memmem(head, c->in.len - at, "\r\n\r\n", 4);
        if (!end) break;
        end[2] = 0;
        char *length = strcasestr(head, "\ncontent-length:");
        size_t size = length ? strtoul(length + 16, 0, 10) : 0;
        if (c->in.len - at < (size_t)(end + 4 - head) + size) { end[2] = '\r'; break; }
        kind->answer(c, head, end + 4, size);
        at += end + 4 - head + size;
    }
    if (at) consumed(&c->in, at);
}
static void readable(struct conn *c) {
    size_t want = opt.mode[0] == 'i' ? 2048 : 65536;
    ssize_t n = recv(c->fd, room(&c->in, want), want, 0);
    if (n < 0 && errno == EAGAIN) return;
    if (n <= 0) { fprintf(stderr, "connection %d lost: %s\n", c->index, n ? strerror(errno) : "end of file"); exit(4); }
    c->in.len += n;
    if (kind->carrier == OVER_TCP) { kind->frame(c, c->in.data, c->in.len); consumed(&c->in, c->in.len); flush(c); return; }
    if (kind->carrier == OVER_HTTP && c->role == SUBSCRIBER) { kind->frame(c, c->in.data, c->in.len); return; }
    if (kind->carrier == OVER_HTTP) { read_answers(c); flush(c); return; }
    if (!c->handshaken) {
        char *end = memmem(c->in.data, c->in.len, "\r\n\r\n", 4);
        if (!end) return;
        if (strncmp(c->in.data + 9, "101", 3)) { complain("handshake", c->in.data, c->in.len); exit(5); }
        consumed(&c->in, end + 4 - c->in.data);
        c->handshaken = 1;
        kind->open(c);
    }
    read_frames(c);
    flush(c);
}
/* What is due by now, each on the connection that comes next. */
static void begin_due(void) {
    static uint64_t number;
    uint64_t times;
    if (read(timer, &times, sizeof times) != sizeof times) return;
    for (; times; times--, due += pace) {
        struct conn *c = opt.mode[0] == 'f' ? &conns[nconns - 1] : &conns[number++ % opt.conns];
        if (c->role == CALLER && c->sent - c->answered >= FLIGHT) { complain("too many wait for an answer", "", 0); continue; }
        if (c->role == CALLER) kind->call(c); else kind->publish(c);
        flush(c);
    }
}
static void turn(int milliseconds) {
    struct epoll_event events[1024];
    int n = epoll_wait(loop, events, 1024, milliseconds);
    for (int i = 0; i < n; i++) {
        struct conn *c = events[i].data.ptr;
        if (!c) { begin_due(); continue; }
        if (events[i].events & EPOLLOUT) { watch(c, EPOLLIN, EPOLL_CTL_MOD); flush(c); }
        if (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) readable(c);
    }
}
static void pump(double seconds) {
    uint64_t end = now() + seconds * 1e9, next = now();
    int poller = !strcmp(opt.mode, "poll");
    while (now() < end) {
        if (poller && now() >= next) { struct conn *c = &conns[nconns - 1]; kind->publish(c); flush(c); next += opt.interval * 1000000ull; }
        turn(poller ? 1 : 20);
    }
}
/* Whether it is on the second server; without one, that is the first. */
static int elsewhere(struct conn *c) {
    return c->role == SERVICE || (c->index % 2 && (c->role == SUBSCRIBER || opt.mode[0] == 'a'));
}
static void connect_one(struct conn *c) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(elsewhere(c) ? opt.peer : opt.port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int one = 1;
    c->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (c->fd < 0 || connect(c->fd, (void *)&to, sizeof to)) fail("connect");
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    fcntl(c->fd, F_SETFL, O_NONBLOCK);
    watch(c, EPOLLIN, EPOLL_CTL_ADD);
    if (kind->carrier == OVER_WEBSOCKET) {
        char m[512], name[48] = "";
        if (kind->call == micro_call) sprintf(name, c->role == SERVICE ? "&serviceName=svc" : "&serviceName=c%d", c->index);
        append(&c->out, m, sprintf(m, "GET %s%s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n", opt.path, name, opt.port));
    } else kind->open(c);
    flush(c);
    struct conn *before = c - opt.backlog + 1;  /* at most so many are under way */
    uint64_t limit = now() + 10000000000ull;
    while (kind->carrier == OVER_WEBSOCKET && before >= conns && !before->handshaken && now() < limit) turn(100);
}
static void all_ready(void) {
    uint64_t limit = now() + 20000000000ull;
    for (int i = 0; i < nconns; i++)
        while (!conns[i].ready) { if (now() > limit) { fprintf(stderr, "connection %d is not ready\n", i); exit(6); } turn(100); }
}
static enum role role_of(int index) {
    int last = index == nconns - 1;
    switch (opt.mode[0]) {
    case 'r': return last ? SERVICE : CALLER;
    case 'f': return last ? PUBLISHER : SUBSCRIBER;
    case 'p': return last ? PUBLISHER : POLLER;
    case 'a': case 'j': case 'c': return CALLER;
    default: return SILENT;
    }
}
static void read_script(struct script *s, const char *name) {
    FILE *f = fopen(name, "r");
    char *line = 0; size_t cap = 0; ssize_t n;
    if (!f) fail(name);
    while ((n = getline(&line, &cap, f)) > 0) {
        if (line[n - 1] == '\n') line[n - 1] = 0;
        if (!(s->count & (s->count + 1)) && !(s->lines = realloc(s->lines, (s->count * 2 + 2) * sizeof *s->lines))) fail("realloc");
        if (!(s->lines[s->count++] = strdup(line))) fail("strdup");
    }
    fclose(f);
}
/* Make the calls of the first file once. */
static void prepare(void) {
    uint64_t limit = now() + 600000000000ull, all = 0;
    preparing = 1;
    for (int i = 0; i < nconns; i++) { for (int k = 0; k < opt.window; k++) owl_line(&conns[i]); flush(&conns[i]); }
    while (all < first.count) {
        if (now() > limit) { fprintf(stderr, "%lu of %zu calls are made\n", all, first.count); exit(6); }
        turn(100);
        all = 0;
        for (int i = 0; i < nconns; i++) all += conns[i].answered;
    }
    preparing = 0;
    if (errors) exit(6);
}
static void begin_paced(void) {
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = 0};
    pace = 1e9 / opt.rate;
    due = now() + pace;
    struct itimerspec when = {{pace / 1000000000, pace % 1000000000}, {due / 1000000000, due % 1000000000}};
    timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    if (timer < 0 || timerfd_settime(timer, TFD_TIMER_ABSTIME, &when, 0) || epoll_ctl(loop, EPOLL_CTL_ADD, timer, &e)) fail("timerfd");
}
static void begin(void) {
    if (opt.rate) { begin_paced(); return; }
    if (opt.mode[0] == 'f') { for (int i = 0; i < opt.window; i++) kind->publish(&conns[nconns - 1]); flush(&conns[nconns - 1]); return; }
    for (int i = 0; i < nconns; i++) {
        struct conn *c = &conns[i];
        if (c->role == CALLER) for (int k = 0; k < opt.window; k++) kind->call(c);
        if (c->role == POLLER) { c->after = 0; if (kind->call) gano_poll(c); else nchan_poll(c); }
        flush(c);
    }
}
int main(int argc, char **argv) {
    int o;
    const char *name = "owlmeans";
    while ((o = getopt(argc, argv, "m:k:p:q:n:w:s:d:W:P:u:i:r:f:F:b:")) != -1) switch (o) {
        case 'm': opt.mode = optarg; break;
        case 'k': name = optarg; break;
        case 'p': opt.port = atoi(optarg); break;
        case 'q': opt.peer = atoi(optarg); break;
        case 'n': opt.conns = atoi(optarg); break;
        case 'w': opt.window = atoi(optarg); break;
        case 's': opt.size = atoi(optarg); break;
        case 'd': opt.seconds = atof(optarg); break;
        case 'W': opt.warm = atof(optarg); break;
        case 'u': opt.path = optarg; break;
        case 'i': opt.interval = atoi(optarg); break;
        case 'b': opt.backlog = atoi(optarg); break;
        case 'r': opt.rate = atof(optarg); break;
        case 'f': read_script(&script, optarg); break;
        case 'F': read_script(&first, optarg); break;
        case 'P': for (char *p = strtok(optarg, ","); p && npids < PIDS; p = strtok(0, ",")) pids[npids++] = atoi(p); break;
        default: return 2;
    }
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) if (!strcmp(kinds[i].name, name)) kind = &kinds[i];
    if (!kind || !opt.port || opt.backlog < 1 || opt.window > FLIGHT || opt.size > MEGABYTE / 2 || (opt.mode[0] == 'c' && !script.count && !first.count)) { fprintf(stderr, "bad options\n"); return 2; }
    if (!opt.peer) opt.peer = opt.port;
    signal(SIGPIPE, SIG_IGN);
    struct rlimit files = {65536, 65536};
    if (setrlimit(RLIMIT_NOFILE, &files)) { getrlimit(RLIMIT_NOFILE, &files); files.rlim_cur = files.rlim_max; setrlimit(RLIMIT_NOFILE, &files); }
    for (size_t i = 0; i < sizeof filler; i++) filler[i] = 'a' + (i * 7 + i / 26) % 26;
    nreceivers = opt.conns;
    nconns = opt.conns + (strchr("rfp", opt.mode[0]) != 0);
    conns = calloc(nconns, sizeof *conns);
    loop = epoll_create1(0);
    long rss = servers_rss();
    double cpu = servers_cpu();
    uint64_t start = now();
    for (int i = 0; i < nconns; i++) { struct conn *c = &conns[i]; c->index = i; c->mask = i * 2654435761u + 12345; c->role = role_of(i); connect_one(c); }
    double connecting = (now() - start) * 1e-9, connect_cpu = servers_cpu() - cpu;
    if (opt.mode[0] == 'i') {
        pump(opt.warm);
        printf("{\"mode\":\"idle\",\"kind\":\"%s\",\"n\":%d,\"rss_kib\":%ld,\"kib_per_conn\":%.2f,\"connects_per_s\":%.0f,\"cpu_us\":%.1f,\"errors\":%lu}\n", name, nconns, servers_rss(), (double)(servers_rss() - rss) / nconns, nconns / connecting, connect_cpu * 1e6 / nconns, errors);
        return errors ? 1 : 0;
    }
    all_ready();
    if (first.count) prepare();
    if (opt.mode[0] == 'c' && !script.count) { puts("prepared"); fflush(stdout); for (;;) turn(1000); }
    begin();
    pump(opt.warm);
    measuring = 1;
    start = now();
    cpu = servers_cpu();
    double own = seconds_of(CLOCK_PROCESS_CPUTIME_ID);
    pump(opt.seconds);
    measuring = 0;
    double took = (now() - start) * 1e-9;
    cpu = servers_cpu() - cpu;
    own = seconds_of(CLOCK_PROCESS_CPUTIME_ID) - own;
    printf("{\"mode\":\"%s\",\"kind\":\"%s\",\"n\":%d,\"window\":%d,\"size\":%d,\"ops\":%lu,\"ops_per_s\":%.0f,\"cpu_us\":%.3f,\"server_share\":%.3f,\"load_share\":%.3f,\"p50_us\":%.0f,\"p99_us\":%.0f,\"p999_us\":%.0f,\"longest_us\":%.0f,\"rss_kib\":%ld,\"errors\":%lu}\n",
           opt.mode, name, opt.conns, opt.window, opt.size, measured, measured / took, measured ? cpu * 1e6 / measured : 0, cpu / took, own / took, quantile(.5), quantile(.99), quantile(.999), longest * 1e-3, servers_rss(), errors);
    return errors ? 1 : 0;
}
