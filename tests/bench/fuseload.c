/* Works on files through the kernel, as fast as one thread can.
 *
 *     fuseload [-t SECONDS] [-w SECONDS] MODE PATH
 *
 * MODE is `cycle` (open, read, close), `stat`, `list` (read a directory) or `long` (read
 * it and stat each entry, as ls -l does).  One JSON line comes out, in the form of load.c.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "latency.h"

enum { ROOM = 1 << 15 };

static const char *path;
static uint64_t units;

static void die(const char *what)
{
	fprintf(stderr, "fuseload: %s: %s: %s\n", path, what, strerror(errno));
	exit(1);
}

static void cycle(void)
{
	static char buffer[4096];
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		die("open");
	if (read(fd, buffer, sizeof buffer) <= 0)
		die("read");
	close(fd);
	units++;
}

static void look(void)
{
	struct stat st;
	if (stat(path, &st) < 0)
		die("stat");
	units++;
}

static void walk(int with_stat)
{
	static char buffer[ROOM];
	struct stat st;
	ssize_t n;
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		die("open");
	while ((n = getdents64(fd, buffer, sizeof buffer)) > 0) {
		for (char *p = buffer; p < buffer + n;) {
			struct dirent64 *entry = (struct dirent64 *)(void *)p;
			p += entry->d_reclen;
			units++;
			if (with_stat && fstatat(fd, entry->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0
			    && errno != ENOENT)
				die(entry->d_name);
		}
	}
	if (n < 0)
		die("getdents");
	close(fd);
}

static void list(void) { walk(0); }
static void long_list(void) { walk(1); }

static const struct {
	const char *name, *unit;
	void (*once)(void);
} modes[] = {
	{ "cycle", "ops", cycle }, { "stat", "ops", look },
	{ "list", "entries", list }, { "long", "entries", long_list },
};

int main(int argc, char **argv)
{
	double run_for = 0.5, warm_for = 0.05;
	uint64_t begin, last, end, count = 0;
	size_t chosen = 0;
	int opt;
	while ((opt = getopt(argc, argv, "t:w:")) != -1) {
		if (opt == 't')
			run_for = atof(optarg);
		else if (opt == 'w')
			warm_for = atof(optarg);
		else
			return 2;
	}
	if (argc - optind == 2)
		while (chosen < 4 && strcmp(argv[optind], modes[chosen].name) != 0)
			chosen++;
	if (argc - optind != 2 || chosen == 4) {
		fprintf(stderr, "usage: fuseload [-t SECONDS] [-w SECONDS] cycle|stat|list|long PATH\n");
		return 2;
	}
	path = argv[optind + 1];
	if (run_for <= 0)
		return 2;
	alarm((unsigned)(run_for + warm_for) + 30);  /* a mount that hangs ends the run */
	for (end = now() + (uint64_t)(warm_for * 1e9); now() < end;)
		modes[chosen].once();
	units = 0;
	begin = last = now();
	for (end = begin + (uint64_t)(run_for * 1e9); last < end;) {
		uint64_t t;
		modes[chosen].once();
		t = now();
		keep(count++, t - last);
		last = t;
	}
	report(modes[chosen].name, modes[chosen].unit, count, units, (double)(last - begin) / 1e9);
	return 0;
}
