/* The least a 9P2000.L server can do, in C, as a peer for reads: one thread, epoll, one
 * file of the disk at the root, any number of clients, no permissions.
 *
 *     cserver SOCKET FILE
 *
 * Every name walks to FILE.  It trusts its clients, so it serves the benchmark and
 * nothing else.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "frames.h"

enum {
	Tlopen = 12, Tgetattr = 24, Rlerror = 7, Tversion = 100, Tattach = 104, Twalk = 110,
	Tread = 116, Tclunk = 120,
	MSIZE = 1 << 20, ROOM = 1 << 16,
};

struct client {
	int fd;
	uint32_t msize;
	size_t have;
	uint8_t in[ROOM];
};

static int file;
static struct stat info;
static uint8_t out[MSIZE + ROOM];  /* the replies of one turn */


static void fail(const char *what)
{
	perror(what);
	exit(1);
}

static int flush(struct client *c, size_t size)
{
	for (size_t done = 0; done < size;) {
		ssize_t n = send(c->fd, out + done, size - done, MSG_NOSIGNAL);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return -1;
		done += (size_t)n;
	}
	return 0;
}

/* The body of the answer to one message, at `to`; its size, or -1 for an Rlerror. */
static ssize_t answer(struct client *c, const uint8_t *m, uint8_t *to)
{
	uint32_t count;
	ssize_t n;
	switch (m[4]) {
	case Tversion:
		c->msize = get4(m + 7) < MSIZE ? get4(m + 7) : MSIZE;
		put4(to, c->msize);
		put2(to + 4, 8);
		memcpy(to + 6, "9P2000.L", 8);
		return 14;
	case Tattach:
		memset(to, 0, 13);
		to[0] = 0x80;
		return 13;
	case Twalk:
		n = get2(m + 15);
		put2(to, (uint16_t)n);
		memset(to + 2, 0, (size_t)n * 13);
		return 2 + n * 13;
	case Tlopen:
		memset(to, 0, 17);
		return 17;
	case Tgetattr:
		memset(to, 0, 153);
		put8(to, 0x7ff);
		put4(to + 21, info.st_mode);
		put8(to + 33, 1);
		put8(to + 49, (uint64_t)info.st_size);
		return 153;
	case Tread:
		count = get4(m + 19);
		if (count > c->msize - 11)
			count = c->msize - 11;
		n = pread(file, to + 4, count, (off_t)get8(m + 11));
		if (n < 0)
			return -1;
		put4(to, (uint32_t)n);
		return 4 + n;
	case Tclunk:
		return 0;
	}
	return -1;
}

/* Serve what one receive brought; -1 ends the client. */
static int serve(struct client *c)
{
	size_t at = 0, queued = 0;
	ssize_t n = recv(c->fd, c->in + c->have, ROOM - c->have, 0);
	if (n <= 0)
		return -1;
	c->have += (size_t)n;
	while (c->have - at >= 7 && c->have - at >= get4(c->in + at)) {
		uint8_t *m = c->in + at, *to = out + queued;
		uint32_t size = get4(m);
		if (size < 7)
			return -1;
		n = answer(c, m, to + 7);
		to[4] = n < 0 ? Rlerror : (uint8_t)(m[4] + 1);
		memcpy(to + 5, m + 5, 2);
		if (n < 0) {
			put4(to + 7, EOPNOTSUPP);
			n = 4;
		}
		put4(to, (uint32_t)n + 7);
		queued += (size_t)n + 7;
		at += size;
		if (queued > ROOM / 2) {
			if (flush(c, queued) < 0)
				return -1;
			queued = 0;
		}
	}
	c->have -= at;
	memmove(c->in, c->in + at, c->have);
	if (c->have == ROOM)
		return -1;
	return flush(c, queued);
}

int main(int argc, char **argv)
{
	struct sockaddr_un sun = { .sun_family = AF_UNIX };
	struct epoll_event events[64], event = { .events = EPOLLIN };
	int listener, poller = epoll_create1(EPOLL_CLOEXEC);
	struct rlimit files;
	if (argc != 3 || strlen(argv[1]) >= sizeof sun.sun_path) {
		fprintf(stderr, "usage: cserver SOCKET FILE\n");
		return 2;
	}
	getrlimit(RLIMIT_NOFILE, &files);
	files.rlim_cur = files.rlim_max;
	setrlimit(RLIMIT_NOFILE, &files);
	file = open(argv[2], O_RDONLY | O_CLOEXEC);
	if (file < 0 || fstat(file, &info) < 0)
		fail(argv[2]);
	strcpy(sun.sun_path, argv[1]);
	listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (bind(listener, (struct sockaddr *)&sun, sizeof sun) < 0 || listen(listener, 128) < 0)
		fail(argv[1]);
	epoll_ctl(poller, EPOLL_CTL_ADD, listener, &event);
	for (;;) {
		int n = epoll_wait(poller, events, 64, -1);
		for (int i = 0; i < n; i++) {
			struct client *c = events[i].data.ptr;
			if (c) {
				if (serve(c) < 0) {
					close(c->fd);
					free(c);
				}
				continue;
			}
			c = calloc(1, sizeof *c);
			if (!c)
				fail("calloc");
			c->fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
			if (c->fd < 0)
				fail("accept");
			event.data.ptr = c;
			epoll_ctl(poller, EPOLL_CTL_ADD, c->fd, &event);
			event.data.ptr = NULL;
		}
	}
}
