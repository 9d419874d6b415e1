/*
 * wan: the links between network namespaces, with the delay, jitter, loss and rate that
 * each is given.
 *
 *   wan NAMESPACE...      paths; the first is port 1
 *   fd 0  ends the program when it is closed: whoever started it holds the other end
 *   fd 1  one line, `ready`, once every namespace has its interface; or `failed=WHAT errno=N`
 *   fd 2  a datagram socket that takes changes, at any time (see take_changes)
 *
 * Every namespace gets a TAP interface, eth0, which goes with this program.  A frame for
 * 02:00:0a:4d:HI:LO is for port HI*256+LO; any other is dropped, and so is one for the port
 * that sent it: that is how netns.py cuts a link.
 *
 * A way leads from one port to another.  A frame first waits until those before it are on
 * the wire, each for its bytes over the rate (Ethernet's header not counted), and is dropped
 * if more bytes than the queue holds wait already; it is then lost, or under way for the
 * delay and a random part of the jitter.  Frames of one way stay in order.
 *
 * All waiting is for one timerfd at CLOCK_MONOTONIC.  Where it may, the program has a
 * real-time priority, so that a busy machine does not make links longer.  Once the
 * interfaces are there it is nobody, and needs nothing but its file descriptors.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <net/if.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

/* linux/if_tun.h, which not every libc finds */
#define TUNSETIFF 0x400454ca
enum { TAP = 0x0002, NO_HEADER = 0x1000 };

enum { LIFE = 0, REPORT = 1, CHANGES = 2 };
enum { MOST_PORTS = 256, NOBODY = 65534 };
enum { HEADER = 14, LARGEST = 65536 + HEADER };	/* bytes of a frame */
enum { TURN = 64 };		/* frames of one port before others have their turn */
static const size_t MOST_BYTES = 256u << 20;	/* under way on all links */

struct way {
	double delay, jitter;	/* ns */
	double loss;		/* part of the frames */
	double byte_time;	/* ns a byte needs, 0 for none */
	double queue;		/* bytes that may wait */
	int64_t free;		/* when the wire is free again */
	int64_t last;		/* when the last frame arrives */
};

struct frame {
	int64_t due;
	uint64_t number;	/* those that are due at once keep their order */
	int to;
	uint32_t size;
	unsigned char bytes[];
};

static int ports, taps[MOST_PORTS + 1];
static struct way *ways;	/* from * (ports + 1) + to */
static struct frame **heap;	/* the one that is due first is heap[0] */
static size_t count, room, bytes_under_way;
static uint64_t numbers, dice = 88172645463325252u;

static int64_t now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

/* At least 0, below 1 (Marsaglia's xorshift, 2003). */
static double chance(void)
{
	dice ^= dice << 13, dice ^= dice >> 7, dice ^= dice << 17;
	return (dice >> 11) / 9007199254740992.0;
}

static void fail(const char *what)
{
	dprintf(REPORT, "failed=%s errno=%d\n", what, errno);
	exit(1);
}

/* Frames under way: a binary heap */

static int before(const struct frame *a, const struct frame *b)
{
	return a->due < b->due || (a->due == b->due && a->number < b->number);
}

static int push(struct frame *f)
{
	if (count == room) {
		size_t wanted = room ? room * 2 : 1024;
		struct frame **more = realloc(heap, wanted * sizeof *heap);
		if (!more)
			return -1;
		heap = more, room = wanted;
	}
	size_t at = count++;
	for (; at && before(f, heap[(at - 1) / 2]); at = (at - 1) / 2)
		heap[at] = heap[(at - 1) / 2];
	heap[at] = f;
	return 0;
}

static struct frame *pop(void)
{
	struct frame *first = heap[0], *last = heap[--count];
	size_t at = 0, child;
	while ((child = 2 * at + 1) < count) {
		if (child + 1 < count && before(heap[child + 1], heap[child]))
			child++;
		if (!before(heap[child], last))
			break;
		heap[at] = heap[child];
		at = child;
	}
	heap[at] = last;
	return first;
}

/* When a frame of so many bytes that comes now arrives; -1 if it does not. */
static int64_t arrival(struct way *way, uint32_t size)
{
	int64_t at = now();
	double wire = (size - HEADER) * way->byte_time;
	if (wire > 0) {
		if (way->free < at)
			way->free = at;
		if (way->free - at > way->queue * way->byte_time)
			return -1;
		at = way->free += (int64_t)wire;
	}
	if (way->loss > 0 && chance() < way->loss)
		return -1;
	at += (int64_t)(way->delay + (way->jitter > 0 ? chance() * way->jitter : 0));
	return way->last = at > way->last ? at : way->last;
}

static void take_frames(int from)
{
	static unsigned char got[LARGEST];
	static const unsigned char ours[4] = {2, 0, 0x0a, 0x4d};
	for (int turn = 0; turn < TURN; turn++) {
		ssize_t size = read(taps[from], got, sizeof got);
		if (size < 0)
			return;	/* no more, or the interface is down */
		int to = got[4] << 8 | got[5];
		if (size < HEADER || memcmp(got, ours, sizeof ours) || to < 1 || to > ports ||
		    to == from || bytes_under_way + size > MOST_BYTES)
			continue;
		int64_t due = arrival(&ways[from * (ports + 1) + to], size);
		struct frame *f = due < 0 ? NULL : malloc(sizeof *f + size);
		if (!f)
			continue;
		f->due = due, f->number = numbers++, f->to = to, f->size = size;
		memcpy(f->bytes, got, size);
		if (push(f))
			free(f);
		else
			bytes_under_way += size;
	}
}

static void deliver(void)
{
	int64_t at = now();
	while (count && heap[0]->due <= at) {
		struct frame *f = pop();
		if (write(taps[f->to], f->bytes, f->size) < 0)
			errno = 0;	/* an interface that is down loses it, as any does */
		bytes_under_way -= f->size;
		free(f);
	}
}

/* Changes */

/* What is negative stays as it is. */
static int change(const char *line)
{
	int from, to;
	double delay, jitter, loss, rate, queue;
	if (sscanf(line, "%d %d %lf %lf %lf %lf %lf", &from, &to, &delay, &jitter, &loss, &rate,
		   &queue) != 7 ||
	    from < 1 || from > ports || to < 1 || to > ports || !(delay <= 60) ||
	    !(jitter <= 60) || !(loss <= 1) || !(rate <= 1e12) || !(queue <= MOST_BYTES))
		return -1;
	struct way *way = &ways[from * (ports + 1) + to];
	if (delay >= 0)
		way->delay = delay * 1e9;
	if (jitter >= 0)
		way->jitter = jitter * 1e9;
	if (loss >= 0)
		way->loss = loss;
	if (rate >= 0)
		way->byte_time = rate > 0 ? 8e9 / rate : 0;
	if (queue >= 0)
		way->queue = queue;
	return 0;
}

/* A datagram holds lines `FROM TO DELAY JITTER LOSS RATE QUEUE`, in ports, seconds, seconds,
   a part of 1, bit/s (0 is without bound) and bytes.  The answer is `ok`, or the first line
   that makes no sense; those before it have been done. */
static void take_changes(void)
{
	static char text[65536], answer[128];
	struct sockaddr_un who;
	socklen_t size = sizeof who;
	ssize_t n = recvfrom(CHANGES, text, sizeof text - 1, MSG_DONTWAIT, (void *)&who, &size);
	if (n < 0)
		return;
	text[n] = '\0';
	snprintf(answer, sizeof answer, "ok");
	char *rest, *line = strtok_r(text, "\n", &rest);
	for (; line; line = strtok_r(NULL, "\n", &rest))
		if (change(line)) {
			snprintf(answer, sizeof answer, "%s", line);
			break;
		}
	sendto(CHANGES, answer, strlen(answer), MSG_DONTWAIT, (void *)&who, size);
}

/* Beginning */

static int open_tap(const char *space)
{
	struct ifreq wanted = {.ifr_flags = TAP | NO_HEADER, .ifr_name = "eth0"};
	int there = open(space, O_RDONLY | O_CLOEXEC);
	if (there < 0 || setns(there, CLONE_NEWNET))
		fail("namespace");
	close(there);
	int tap = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
	if (tap < 0 || ioctl(tap, TUNSETIFF, &wanted))
		fail("interface");
	return tap;
}

static void open_taps(char **spaces)
{
	int home = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
	if (home < 0)
		fail("namespace");
	for (int port = 1; port <= ports; port++)
		taps[port] = open_tap(spaces[port - 1]);
	if (setns(home, CLONE_NEWNET))
		fail("namespace");
	close(home);
}

static void become_nobody(void)
{
	struct sched_param lowest = {.sched_priority = 1};
	/* Both only where they are allowed; musl has no function for the second. */
	mlockall(MCL_CURRENT);
	syscall(SYS_sched_setscheduler, 0, SCHED_FIFO, &lowest);
	if (setgroups(0, NULL) || setresgid(NOBODY, NOBODY, NOBODY) ||
	    setresuid(NOBODY, NOBODY, NOBODY) || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
		fail("user");
}

static void look_at(int poll, int fd, uint32_t events, int what)
{
	struct epoll_event event = {.events = events, .data.fd = what};
	if (epoll_ctl(poll, EPOLL_CTL_ADD, fd, &event))
		fail("epoll");
}

static void set_alarm(int timer)
{
	static int64_t set;
	int64_t due = count ? heap[0]->due : 0;
	if (due == set)
		return;
	struct itimerspec at = {.it_value = {due / 1000000000, due % 1000000000}};
	timerfd_settime(timer, TFD_TIMER_ABSTIME, &at, NULL);
	set = due;
}

int main(int argc, char **argv)
{
	enum { TIMER = -1, CHANGE = -2, END = -3 };	/* else the port */
	ports = argc - 1;
	errno = EINVAL;
	if (ports < 1 || ports > MOST_PORTS)
		fail("ports");
	ways = calloc((ports + 1) * (ports + 1), sizeof *ways);
	int poll = epoll_create1(EPOLL_CLOEXEC);
	int timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
	if (!ways || poll < 0 || timer < 0)
		fail("memory");
	dice ^= now();
	open_taps(argv + 1);
	become_nobody();
	look_at(poll, LIFE, EPOLLIN, END);
	look_at(poll, CHANGES, EPOLLIN, CHANGE);
	look_at(poll, timer, EPOLLIN | EPOLLET, TIMER);	/* edges: nobody reads it */
	for (int port = 1; port <= ports; port++)
		look_at(poll, taps[port], EPOLLIN, port);
	dprintf(REPORT, "ready\n");
	for (;;) {
		struct epoll_event events[64];
		int n = epoll_wait(poll, events, 64, -1);
		for (int i = 0; i < n; i++) {
			int what = events[i].data.fd;
			if (what == END)
				return 0;
			if (what == CHANGE)
				take_changes();
			else if (what != TIMER)
				take_frames(what);
			deliver();
		}
		deliver();
		set_alarm(timer);
	}
}
