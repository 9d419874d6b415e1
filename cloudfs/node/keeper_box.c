/*
 * A box: where what criu dumped goes on, with the pids that it had.
 *
 * Those pids may be taken on this machine, so the box is a pid name space of its own,
 * with a /proc that fits, in a mount name space.  Its process 1 is a fork of the keeper:
 * it starts criu, which makes the restored program its child, reaps what is left to it,
 * and tells through a pipe how the program ended.  It is in no control group.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

enum { FIRST_FD = 10 };		/* where criu finds stdin, stdout and stderr of the restored */

pid_t open_box(const char *criu, char **args, const char **joins, size_t njoins, int last_pid,
	       const int stdio[3]);
pid_t boxed_first(pid_t init);
int boxed_status(int *status);
pid_t child_of(pid_t parent);	/* keeper_proc.c */

static int told[2] = {-1, -1};	/* a byte once it is restored, then how it ended */

static void put(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0 || write(fd, text, strlen(text)) < 0)
		_exit(127);
	close(fd);
}

static void become_criu(const char *criu, char **args, const char **joins, size_t njoins,
			const int stdio[3])
{
	char *env[] = {"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", NULL};
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	sigset_t none;
	for (size_t i = 0; i < njoins; i++)
		put(joins[i], "0");
	for (int i = 0; i < 3; i++)
		if (dup2(stdio[i], FIRST_FD + i) < 0)
			_exit(127);
	for (int i = 0; i < 3; i++)
		dup2(null, i);
	for (int s = 1; s < NSIG; s++)
		signal(s, SIG_DFL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	execve(criu, args, env);
	_exit(127);
}

static void be_init(const char *criu, char **args, const char **joins, size_t njoins,
		    int last_pid, const int stdio[3])
{
	char text[32];
	int status, ended;
	pid_t pid, first;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (unshare(CLONE_NEWNS) || mount("none", "/", NULL, MS_REC | MS_SLAVE, NULL) ||
	    mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL))
		_exit(127);
	snprintf(text, sizeof text, "%d", last_pid);
	put("/proc/sys/kernel/ns_last_pid", text);	/* criu's own pids are not the program's */
	pid_t launcher = fork();
	if (launcher == 0)
		become_criu(criu, args, joins, njoins, stdio);
	while (waitpid(launcher, &status, 0) < 0)
		if (errno != EINTR)
			_exit(127);
	first = child_of(1);
	if (status != 0 || first <= 0 || write(told[1], "", 1) != 1)
		_exit(127);
	for (int i = 0; i < told[1]; i++)	/* the pipes are the program's alone */
		close(i);
	for (int i = told[1] + 1; i < 64; i++)
		close(i);
	while ((pid = waitpid(-1, &ended, __WALL)) > 0 || errno == EINTR)
		if (pid == first && write(told[1], &ended, sizeof ended) < 0)
			_exit(127);
	_exit(0);
}

/* Has criu, called with args, restore into a box; its process 1, or -1. */
pid_t open_box(const char *criu, char **args, const char **joins, size_t njoins, int last_pid,
	       const int stdio[3])
{
	if (pipe2(told, O_CLOEXEC) || unshare(CLONE_NEWPID))
		return -1;
	pid_t init = fork();
	if (init == 0)
		be_init(criu, args, joins, njoins, last_pid, stdio);
	close(told[1]);
	return init;
}

/* The restored program's pid, once it runs; 0 if it was not restored. */
pid_t boxed_first(pid_t init)
{
	char byte;
	ssize_t n;
	while ((n = read(told[0], &byte, 1)) < 0 && errno == EINTR)
		;
	fcntl(told[0], F_SETFL, O_NONBLOCK);
	return n == 1 ? child_of(init) : 0;
}

/* Whether the program has ended, and how. */
int boxed_status(int *status)
{
	return read(told[0], status, sizeof *status) == sizeof *status;
}
