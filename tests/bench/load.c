/* A 9P load generator: one thread, many connections, and less work per message than any
 * server does, so that what it measures is the server.
 *
 *     load [-d DIALECT] [-m MSIZE] [-c CONNECTIONS] [-q DEPTH] [-i IDLE] [-t SECONDS]
 *          [-w SECONDS] [-n OPS] [-u UID] [-a ANAME] ADDR MODE PATH
 *
 * ADDR is a unix socket's path or HOST:PORT.  MODE is a row of `modes` below.  IDLE
 * connections are attached before the run and stay silent.  -n ends a run after so many
 * operations, -t after so long, whichever is first; -w seconds before it are not counted.
 * One JSON line comes out: operations, units (operations, bytes of a read, entries of a
 * list), seconds, units a second, and the 50th and 99th percentile and the maximum of an
 * operation's latency in seconds.  An answer that is not the one expected ends the run
 * with its text and exit status 1.
 */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <unistd.h>

#include "conn.h"
#include "latency.h"

enum {
	Tlopen = 12, Tgetattr = 24, Treaddir = 40, Tversion = 100, Tattach = 104, Twalk = 110, Topen = 112,
	Tread = 116, Tclunk = 120, Tstat = 124,
};
enum {
	NOFID = 0xffffffffu, NOTAG = 0xffff,
	ROOT = 0, FILE_FID = 1, FIRST_FID = 16,
	SMALL = 4096,         /* bytes asked for by the read of a cycle */
	MAX_DEPTH = 256, MAX_CONNS = 1024, MAX_NAMES = 16,
	HEADER = 24,          /* IOHDRSZ: what a read's reply has beside its data */
};

enum dialect { PLAIN, DOTU, DOTL };
static const char *const dialects[] = { "9P2000", "9P2000.u", "9P2000.L" };

struct step;
struct mode {
	const char *name;
	const struct step *steps;
	int count, burst;     /* burst: all steps are sent together */
	int opened;           /* FILE_FID is opened before the run */
	const char *unit;
};

static enum dialect dialect = DOTL;
static uint32_t msize = 65536, n_uname = 0;
static const char *address, *aname = "", *names[MAX_NAMES];
static size_t path_bytes;
static int name_count, depth = 1, conn_count = 1, idle_count;
static double run_for = 0.5, warm_for = 0.05;
static uint64_t max_ops = UINT64_MAX;
static const struct mode *mode;

static uint64_t ops, units, started, stop_at, flying;

static void ask_walk_to(struct conn *c, uint16_t tag, uint32_t fid)
{
	uint8_t *p = begin(c, Twalk, tag);
	p = put4(put4(p, ROOT), fid);
	p = put2(p, (uint16_t)name_count);
	for (int i = 0; i < name_count; i++)
		p = put_text(p, names[i]);
	finish(c, p);
}

static void ask_open_of(struct conn *c, uint16_t tag, uint32_t fid)
{
	if (dialect == DOTL)
		finish(c, put4(put4(begin(c, Tlopen, tag), fid), 0));
	else
		finish(c, put1(put4(begin(c, Topen, tag), fid), 0));
}

static void ask_read_of(struct conn *c, int type, uint16_t tag, uint32_t fid, uint64_t offset,
			uint32_t count)
{
	finish(c, put4(put8(put4(begin(c, type, tag), fid), offset), count));
}

/* The steps that modes are made of.  `ask` queues the step's message.  `hear` looks at a
 * reply's body and says how far to go: 1 to the next step, 0 the same step again. */

struct step {
	void (*ask)(struct conn *, struct slot *, uint16_t tag);
	int (*hear)(struct conn *, struct slot *, const uint8_t *body, uint32_t size);
};

static int hear_any(struct conn *c, struct slot *s, const uint8_t *body, uint32_t size)
{
	(void)c, (void)s, (void)body, (void)size;
	return 1;
}

static void ask_stat(struct conn *c, struct slot *s, uint16_t tag)
{
	(void)s;
	if (dialect == DOTL)
		finish(c, put8(put4(begin(c, Tgetattr, tag), FILE_FID), 0x7ff));
	else
		finish(c, put4(begin(c, Tstat, tag), FILE_FID));
}

static void ask_walk(struct conn *c, struct slot *s, uint16_t tag)
{
	ask_walk_to(c, tag, s->fid);
}

static int hear_walk(struct conn *c, struct slot *s, const uint8_t *body, uint32_t size)
{
	(void)c, (void)s, (void)size;
	if (get2(body) != name_count)
		die("a walk stopped after %d of %d names", get2(body), name_count);
	return 1;
}

static void ask_open(struct conn *c, struct slot *s, uint16_t tag)
{
	s->offset = 0;
	ask_open_of(c, tag, s->fid);
}

static void ask_read(struct conn *c, struct slot *s, uint16_t tag)
{
	ask_read_of(c, Tread, tag, s->fid, 0, SMALL);
}

static int hear_read(struct conn *c, struct slot *s, const uint8_t *body, uint32_t size)
{
	(void)c, (void)s, (void)size;
	if (get4(body) == 0)
		die("an empty read");
	return 1;
}

static void ask_clunk(struct conn *c, struct slot *s, uint16_t tag)
{
	finish(c, put4(begin(c, Tclunk, tag), s->fid));
}

static void ask_bulk(struct conn *c, struct slot *s, uint16_t tag)
{
	uint32_t count = msize - HEADER;
	ask_read_of(c, Tread, tag, FILE_FID, c->offset, count);
	s->offset = c->offset;
	c->offset += count;
}

static int hear_bulk(struct conn *c, struct slot *s, const uint8_t *body, uint32_t size)
{
	(void)size;
	uint32_t got = get4(body);
	units += got;
	if (got < msize - HEADER) {
		if (s->offset == 0 && got == 0)
			die("an empty file");
		c->offset = 0;
	}
	return 1;
}

static void ask_list(struct conn *c, struct slot *s, uint16_t tag)
{
	ask_read_of(c, dialect == DOTL ? Treaddir : Tread, tag, s->fid, s->offset, msize - HEADER);
}

static int hear_list(struct conn *c, struct slot *s, const uint8_t *body, uint32_t size)
{
	(void)c, (void)size;
	uint32_t count = get4(body);
	const uint8_t *p = body + 4, *end = p + count;
	if (count == 0)
		return 1;
	if (dialect != DOTL)
		s->offset += count;
	while (p < end) {
		if (dialect == DOTL) {
			s->offset = get8(p + 13);
			p += 24 + get2(p + 22);
		} else {
			p += 2 + get2(p);
		}
		units++;
	}
	if (p != end)
		die("half an entry in a listing");
	return 0;
}

static const struct step stat_steps[] = { { ask_stat, hear_any } };
static const struct step cycle_steps[] = {
	{ ask_walk, hear_walk }, { ask_open, hear_any }, { ask_read, hear_read }, { ask_clunk, hear_any },
};
static const struct step bulk_steps[] = { { ask_bulk, hear_bulk } };
static const struct step list_steps[] = {
	{ ask_walk, hear_walk }, { ask_open, hear_any }, { ask_list, hear_list }, { ask_clunk, hear_any },
};

static const struct mode modes[] = {
	{ "stat", stat_steps, 1, 0, 0, "ops" },
	{ "cycle", cycle_steps, 4, 0, 0, "ops" },   /* each message after the last one's reply */
	{ "burst", cycle_steps, 4, 1, 0, "ops" },   /* the four messages together */
	{ "read", bulk_steps, 1, 0, 1, "bytes" },
	{ "list", list_steps, 4, 0, 0, "entries" },
};

static void log_in(struct conn *c)
{
	uint8_t *p;
	c->fd = dial(address);
	finish(c, put_text(put4(begin(c, Tversion, NOTAG), msize), dialects[dialect]));
	call(c);
	if (get4(scratch + 7) < msize) {
		if (mode->steps == bulk_steps)
			die("the server's msize is %u, not %u", get4(scratch + 7), msize);
		msize = get4(scratch + 7);
	}
	if (get2(scratch + 11) != strlen(dialects[dialect]))
		die("the server speaks %.*s", get2(scratch + 11), scratch + 13);
	p = put4(put4(begin(c, Tattach, 0), ROOT), NOFID);
	p = put_text(put_text(p, n_uname ? "nobody" : "root"), aname);
	finish(c, dialect == PLAIN ? p : put4(p, n_uname));
	call(c);
}

static void set_up(struct conn *c)
{
	c->room = msize + BULK;
	c->in = malloc(c->room);
	c->out = malloc(4096 + (size_t)depth * (path_bytes + 128));
	c->slots = calloc((size_t)depth, sizeof *c->slots);
	if (!c->in || !c->out || !c->slots)
		die("no memory");
	log_in(c);
	for (int i = 0; i < depth; i++)
		c->slots[i].fid = (uint32_t)(FIRST_FID + i);
	ask_walk_to(c, 0, FILE_FID);
	call(c);
	if (get2(scratch + 7) != name_count)
		die("no such file on the server");
	if (mode->opened) {
		ask_open_of(c, 0, FILE_FID);
		call(c);
	}
}

static void start(struct conn *c, int index)
{
	struct slot *s = &c->slots[index];
	s->step = 0;
	s->left = mode->burst ? mode->count : 1;
	s->began = now();
	flying++;
	for (int i = 0; i < s->left; i++)
		mode->steps[i].ask(c, s, (uint16_t)(index * 4 + i));
}

static void complete(struct conn *c, int index)
{
	uint64_t t = now(), took = t - c->slots[index].began;
	keep(ops++, took);
	flying--;
	if (mode->unit[0] == 'o')
		units = ops;
	if (t < stop_at && ops < max_ops)
		start(c, index);
}

static const uint8_t asked_L[] = { Twalk, Tlopen, Tread, Tclunk };
static const uint8_t asked_plain[] = { Twalk, Topen, Tread, Tclunk };

static int asked_type(int step)
{
	if (mode->steps == stat_steps)
		return dialect == DOTL ? Tgetattr : Tstat;
	if (mode->steps == bulk_steps)
		return Tread;
	if (mode->steps == list_steps && step == 2 && dialect == DOTL)
		return Treaddir;
	return (dialect == DOTL ? asked_L : asked_plain)[step];
}

static void hear(struct conn *c, const uint8_t *frame, uint32_t size)
{
	uint16_t tag = get2(frame + 5);
	int index = tag / 4, step = tag % 4;
	struct slot *s = &c->slots[index];
	if (index >= depth || step >= mode->count)
		die("a reply with the unknown tag %u", tag);
	check_type(frame, asked_type(step));
	if (!mode->burst)
		s->step += mode->steps[step].hear(c, s, frame + 7, size - 7);
	else if (--s->left == 0)
		s->step = mode->count;
	else
		return;
	if (s->step == mode->count)
		complete(c, index);
	else
		mode->steps[s->step].ask(c, s, (uint16_t)(index * 4 + s->step));
}

static void take(struct conn *c, int flags)
{
	size_t at = 0;
	ssize_t n = recv(c->fd, c->in + c->have, c->room - c->have, flags);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0)
		die("the server hung up: %s", n ? strerror(errno) : "end of file");
	c->have += (size_t)n;
	while (c->have - at >= 7) {
		uint32_t size = get4(c->in + at);
		if (size < 7 || size > msize)
			die("a frame of %u bytes", size);
		if (c->have - at < size)
			break;
		hear(c, c->in + at, size);
		at += size;
	}
	if (at && at < c->have)
		memmove(c->in, c->in + at, c->have - at);
	c->have -= at;
	if (c->queued)
		send_all(c);
}

static void run(struct conn *conns, int poller, double seconds)
{
	struct epoll_event events[64];
	ops = units = 0;
	started = now();
	stop_at = started + (uint64_t)(seconds * 1e9);
	for (int i = 0; i < conn_count; i++) {
		for (int k = 0; k < depth; k++)
			start(&conns[i], k);
		send_all(&conns[i]);
	}
	while (flying) {
		if (conn_count == 1) {
			take(&conns[0], 0);
			continue;
		}
		int n = epoll_wait(poller, events, 64, -1);
		for (int i = 0; i < n; i++)
			take(events[i].data.ptr, MSG_DONTWAIT);
	}
}

static void options(int argc, char **argv)
{
	int opt;
	while ((opt = getopt(argc, argv, "d:m:c:q:i:t:w:n:u:a:")) != -1) {
		switch (opt) {
		case 'd':
			for (dialect = PLAIN; strcmp(optarg, dialects[dialect]) != 0; dialect++)
				if (dialect == DOTL)
					die("-d: 9P2000, 9P2000.u or 9P2000.L");
			break;
		case 'm': msize = (uint32_t)atoi(optarg); break;
		case 'c': conn_count = atoi(optarg); break;
		case 'q': depth = atoi(optarg); break;
		case 'i': idle_count = atoi(optarg); break;
		case 't': run_for = atof(optarg); break;
		case 'w': warm_for = atof(optarg); break;
		case 'n': max_ops = strtoull(optarg, NULL, 10); break;
		case 'u': n_uname = (uint32_t)atoi(optarg); break;
		case 'a': aname = optarg; break;
		default: exit(2);
		}
	}
	if (argc - optind != 3)
		die("usage: load [OPTION]… ADDR MODE PATH");
	if (depth < 1 || depth > MAX_DEPTH || conn_count < 1 || conn_count > MAX_CONNS || idle_count < 0)
		die("-q 1…%d, -c 1…%d", MAX_DEPTH, MAX_CONNS);
	if (msize < 4096 || msize > 1 << 24)
		die("-m 4096…16777216");
	address = argv[optind];
	for (size_t i = 0; i < sizeof modes / sizeof *modes; i++)
		if (!strcmp(argv[optind + 1], modes[i].name))
			mode = &modes[i];
	if (!mode)
		die("no mode %s", argv[optind + 1]);
	for (char *p = strtok(argv[optind + 2], "/"); p; p = strtok(NULL, "/")) {
		if (name_count == MAX_NAMES || strlen(p) > 255)
			die("the path is too long");
		names[name_count++] = p;
		path_bytes += 2 + strlen(p);
	}
}

int main(int argc, char **argv)
{
	struct rlimit files;
	struct conn *conns;
	uint16_t one = 1;
	int poller = epoll_create1(EPOLL_CLOEXEC);
	if (*(uint8_t *)&one != 1)
		die("this machine is big-endian");
	options(argc, argv);
	getrlimit(RLIMIT_NOFILE, &files);
	files.rlim_cur = files.rlim_max;
	setrlimit(RLIMIT_NOFILE, &files);
	if (n_uname && (setgid(n_uname) || setuid(n_uname)))
		die("cannot become uid %u: %s", n_uname, strerror(errno));
	alarm((unsigned)(run_for + warm_for) + 30);  /* a server that hangs ends the run */

	conns = calloc((size_t)(conn_count + idle_count), sizeof *conns);
	if (!conns)
		die("no memory");
	for (int i = 0; i < conn_count; i++) {
		struct epoll_event event = { .events = EPOLLIN, .data.ptr = &conns[i] };
		set_up(&conns[i]);
		epoll_ctl(poller, EPOLL_CTL_ADD, conns[i].fd, &event);
	}
	for (int i = conn_count; i < conn_count + idle_count; i++) {
		static uint8_t out[512];
		conns[i].out = out;
		log_in(&conns[i]);
	}
	if (warm_for > 0)
		run(conns, poller, warm_for);
	run(conns, poller, run_for);
	if (!ops)
		die("no operation ended");
	report(mode->name, mode->unit, ops, units, (double)(now() - started) / 1e9);
	return 0;
}
