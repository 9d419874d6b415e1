/*
 * keeper: stays with one object for as long as any of its processes runs.
 *
 * The daemon starts one keeper for each object and may then be stopped, killed or
 * upgraded: the keeper holds the object's stdin, carries its stdout and stderr into
 * files, keeps its time limit, kills its whole tree when told to, and writes down how
 * it ended.  It waits in ppoll(2) and has no threads and no heap to speak of.
 *
 *   fd 0  the object's directory, with the flock(2) that says "a keeper lives" on it
 *   fd 1  the order: strings `key=value`, each ended by a NUL (see KEYS)
 *   fd 2  where to report the start, one line: `pid=…` or `failed=STAGE errno=N`
 *
 * Files it writes in that directory: `stdout` and `stderr` (true offsets; the oldest
 * bytes beyond the limit become a hole), and `keeper`, a line on how to reach it, which
 * at the end gets a second line on how it ended and only then the name `exit`.
 * Requests come as lines on a pipe that the daemon opens through /proc/PID/fd/N:
 * `kill 'WHY'`, `signal N`, `stdin` (close it), `time SECONDS` (0 is no limit), `sync N`
 * (carry all output there is, then say `sync=N` in the file `keeper`), `lease SECONDS`
 * (freeze the whole at that time of CLOCK_BOOTTIME, unless a later one comes; 0 is never),
 * `reopen` (other files are in place of `stdout` and `stderr`: go on at their ends).
 *
 * A lease is how no object runs twice: another node may let it go on once this one was not
 * heard of for a while, and the daemon that would stop it here may be dead or frozen.  So
 * the keeper does, by a clock that goes on while the machine sleeps; and again and again,
 * as a daemon that slept meanwhile may thaw it by a decision of long ago.
 *
 * Descriptors from 3 on go to the program where the order says so (key `passed`); with the key
 * `user` it runs as that one, without a network and with System V IPC of its own.
 *
 * What it runs may be what criu dumped of an earlier life (key `image`): see keeper_box.c.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { DIRECTORY = 0, ORDER = 1, REPORT = 2 };
enum { MAX_JOINS = 16, USUAL_FILES = 1024 };
enum { KILL_PAUSE = 50, RETRY_PAUSE = 1000, EXEC_PATIENCE = 2000, HOLD_PAUSE = 100 }; /* ms */

/* What the order says. */
static char **args, **envs;
static size_t nargs, nenvs, njoins;
static const char *joins[MAX_JOINS];	/* cgroup.procs files the program joins */
static const char *program, *cwd = "/", *note = "";
static const char *pidfile;	/* the program only launches what runs: its pid is here */
static const char *killfile;	/* v2 cgroup.kill */
static const char *freezer;	/* v1 freezer.state: frozen processes cannot die */
static double time_limit;
static double lease;		/* of CLOCK_BOOTTIME; 0 is none */
static int lease_timer = -1;
static off_t stdio_limit = 1 << 28;
static int niceness;
static double ran;		/* seconds that it ran before it was dumped */
static const char *input;	/* a file of its directory: what its stdin held then */
static int input_closed;
static int box;			/* the program is criu, and restores into a box */
static int last_pid;
static uid_t owner = -1;	/* of the pipes, where the program is another user's */
static uid_t user = -1;		/* who the program is to be, in no other group than: */
static gid_t group = -1;
static int passed;		/* descriptors from 3 on are the program's, so many */
static int apart;		/* what the program mounts nobody else sees */

/* What goes on. */
static int stdin_pipe[2], control[2];
static pid_t self;
static pid_t first;		/* the program, or what it launched */
static int first_ended, first_status;
static int ended_by;		/* the signal for which a SIGKILL of ours stood */
static int kill_passes;		/* how often we have tried; 0 is not asked to */
static double started;		/* wall clock */
static double began, last_pass;	/* monotonic clock */
static struct rusage sum;
static char why[512];		/* quoted, as the daemon sent it */
static off_t keeper_size;	/* of the first line of the file `keeper` */
static const char *disk = "ok";
static unsigned long pipes[3];	/* inodes of its stdin, stdout and stderr */
static unsigned long synced, sync_asked;

/* Set by the vfork(2) child, which runs in our memory until it execs. */
static const char *volatile failed;
static volatile int failure;

static double clock_now(clockid_t clock)
{
	struct timespec t;
	clock_gettime(clock, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

static int write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return -1;
	ssize_t n = write(fd, text, strlen(text));
	int error = errno;
	close(fd);
	errno = error;
	return n < 0 ? -1 : 0;
}

static int report(const char *stage, int error)
{
	dprintf(REPORT, "failed=%s errno=%d\n", stage, error);
	return 1;
}

/* keeper_out.c */
void begin_output(int out, int err);
int carry_output(off_t limit);
int output_pipe(int number);
void reopen_output(void);

/* keeper_proc.c */
size_t signal_descendants(pid_t ancestor, int number);
int ends_by(pid_t pid, int number);
int is_runc(pid_t pid);

/* keeper_box.c */
pid_t open_box(const char *criu, char **args, const char **joins, size_t njoins, int last_pid,
	       const int stdio[3]);
pid_t boxed_first(pid_t init);
int boxed_status(int *status);

/* The order */

static void key_arg(const char *value) { args[nargs++] = (char *)value; }
static void key_env(const char *value) { envs[nenvs++] = (char *)value; }
static void key_join(const char *value) { if (njoins < MAX_JOINS) joins[njoins++] = value; }
static void key_program(const char *value) { program = value; }
static void key_cwd(const char *value) { cwd = value; }
static void key_note(const char *value) { note = value; }
static void key_pidfile(const char *value) { pidfile = value; }
static void key_kill(const char *value) { killfile = value; }
static void key_freezer(const char *value) { freezer = value; }
static void key_time(const char *value) { time_limit = atof(value); }
static void key_stdio(const char *value) { stdio_limit = atoll(value); }
static void key_nice(const char *value) { niceness = atoi(value); }
static void key_owner(const char *value) { owner = atoll(value); }
static void key_user(const char *value) { user = atoll(value); }
static void key_group(const char *value) { group = atoll(value); }
static void key_passed(const char *value) { passed = atoi(value); }
static void key_apart(const char *value) { apart = atoi(value); }
static void key_ran(const char *value) { ran = atof(value); }
static void key_input(const char *value) { input = value; }
static void key_closed(const char *value) { input_closed = atoi(value); }
static void key_box(const char *value) { box = 1, last_pid = atoi(value); }

static void key_lease(const char *value)
{
	struct itimerspec at = {{0, 0}, {0, 0}};
	lease = atof(value);
	if (lease_timer < 0 && lease > 0)
		lease_timer = timerfd_create(CLOCK_BOOTTIME, TFD_CLOEXEC | TFD_NONBLOCK);
	at.it_value.tv_sec = (time_t)lease;
	at.it_value.tv_nsec = lease > 0 ? (long)((lease - (time_t)lease) * 1e9) | 1 : 0;
	if (lease_timer >= 0)
		timerfd_settime(lease_timer, TFD_TIMER_ABSTIME, &at, NULL);
}

static const struct { const char *key; void (*take)(const char *); } KEYS[] = {
	{"arg", key_arg}, {"env", key_env}, {"join", key_join}, {"program", key_program},
	{"cwd", key_cwd}, {"note", key_note}, {"pidfile", key_pidfile}, {"kill", key_kill},
	{"freezer", key_freezer}, {"time", key_time}, {"stdio", key_stdio}, {"nice", key_nice},
	{"owner", key_owner}, {"ran", key_ran}, {"input", key_input}, {"closed", key_closed},
	{"box", key_box}, {"lease", key_lease}, {"user", key_user}, {"group", key_group},
	{"passed", key_passed}, {"apart", key_apart},
};

/* The order stays mapped: paths are needed later, and its pages are few. */
static int read_order(void)
{
	struct stat st;
	size_t strings = 0;
	if (fstat(ORDER, &st) || st.st_size == 0)
		return -1;
	char *text = mmap(NULL, st.st_size, PROT_READ, MAP_SHARED, ORDER, 0);
	if (text == MAP_FAILED || text[st.st_size - 1] != '\0')
		return -1;
	for (off_t i = 0; i < st.st_size; i++)
		strings += text[i] == '\0';
	args = calloc(strings + 1, sizeof *args);
	envs = calloc(strings + 1, sizeof *envs);
	if (!args || !envs)
		return -1;
	for (char *s = text; s < text + st.st_size; s += strlen(s) + 1) {
		const char *value = strchr(s, '=');
		for (size_t k = 0; value && k < sizeof KEYS / sizeof *KEYS; k++)
			if (strlen(KEYS[k].key) == (size_t)(value - s) &&
			    !strncmp(s, KEYS[k].key, value - s))
				KEYS[k].take(value + 1);
	}
	return program && nargs ? 0 : -1;
}

/* Fields are of fixed width, so that writing the record again replaces it in place. */
static int keeper_record(char *to, size_t size, pid_t pid)
{
	return snprintf(to, size,
		"pid=%-10d keeper=%-10d started=%.6f stdin=%-3d control=%-3d disk=%-4s sync=%-10lu "
		"pipes=%lu,%lu,%lu %s\n",
		pid, self, started, stdin_pipe[1], control[1], disk, synced, pipes[0], pipes[1],
		pipes[2], note);
}

static int write_keeper(pid_t pid)
{
	char line[4096];
	int n = keeper_record(line, sizeof line, pid);
	int fd = openat(DIRECTORY, "keeper", O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0 || n >= (int)sizeof line)
		return -1;
	ssize_t written = pwrite(fd, line, n, 0);
	keeper_size = n;
	close(fd);
	return written == n ? 0 : -1;
}

/* Starting */

static void fail(const char *stage)
{
	failure = errno;
	failed = stage;
	_exit(127);
}

/* Straight to the kernel: we are in our parent's memory, and libc keeps notes there. */
static int become_user(void)
{
	if (unshare(CLONE_NEWNET | CLONE_NEWIPC) ||
	    syscall(SYS_setgroups, group != (gid_t)-1, &group) ||
	    syscall(SYS_setresgid, user, user, user) || syscall(SYS_setresuid, user, user, user))
		return -1;
	prctl(PR_SET_PDEATHSIG, SIGKILL);	/* another user's loses it */
	if (getppid() != self)
		_exit(127);
	return 0;
}

static void become_program(int in, int out, int err)
{
	struct rlimit files;
	sigset_t none;
	setsid();
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != self)
		_exit(127);
	if (write_keeper(pidfile ? 0 : getpid()))
		fail("keeper");
	for (size_t i = 0; i < njoins; i++)
		if (write_file(joins[i], "0"))
			fail("cgroup");
	if (niceness && setpriority(PRIO_PROCESS, 0, niceness))
		fail("nice");
	if (dup2(in, 0) < 0 || dup2(out, 1) < 0 || dup2(err, 2) < 0)
		fail("stdio");
	if (chdir(cwd))
		fail("cwd");
	if (!getrlimit(RLIMIT_NOFILE, &files) && files.rlim_cur > USUAL_FILES) {
		files.rlim_cur = USUAL_FILES;	/* the daemon's own is far higher */
		setrlimit(RLIMIT_NOFILE, &files);
	}
	for (int s = 1; s < NSIG; s++)
		signal(s, SIG_DFL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	if (user != (uid_t)-1 && become_user())
		fail("user");
	if (apart && (unshare(CLONE_NEWNS) || mount("none", "/", NULL, MS_REC | MS_SLAVE, NULL)))
		fail("mounts");
	execve(program, args, envs);
	fail("exec");
}

static int read_pidfile(void)
{
	char text[32] = "";
	int fd = open(pidfile, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || read(fd, text, sizeof text - 1) <= 0)
		return -1;
	close(fd);
	first = atoi(text);
	return first > 0 ? 0 : -1;
}

/* A launcher (runc) ends well once what it was to launch runs, reparented to us. */
static int await_launcher(pid_t launcher)
{
	int status;
	while (wait4(launcher, &status, 0, NULL) < 0)
		if (errno != EINTR)
			return report("launch", errno);
	if (status != 0 || read_pidfile())
		return report("launch", 0);
	for (int ms = 0; ms < EXEC_PATIENCE && is_runc(first); ms++)
		usleep(1000);
	return write_keeper(first) ? report("keeper", errno) : 0;
}

static unsigned long inode(int fd)
{
	struct stat st;
	return fstat(fd, &st) ? 0 : st.st_ino;
}

/* What stdin held when the program was dumped goes into the new pipe before all else. */
static int fill_input(void)
{
	struct stat st;
	int fd = openat(DIRECTORY, input, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st))
		return -1;
	if (st.st_size > 65536 && fcntl(stdin_pipe[1], F_SETPIPE_SZ, (int)st.st_size) < 0)
		return -1;
	for (off_t left = st.st_size; left > 0;) {
		ssize_t n = splice(fd, NULL, stdin_pipe[1], NULL, left, SPLICE_F_NONBLOCK);
		if (n <= 0)
			return -1;
		left -= n;
	}
	close(fd);
	return 0;
}

static int await_box(pid_t init)
{
	first = init > 0 ? boxed_first(init) : 0;
	if (first <= 0)
		return report("launch", 0);
	return write_keeper(first) ? report("keeper", errno) : 0;
}

static int start(void)
{
	int out[2], err[2];
	if (pipe2(stdin_pipe, O_CLOEXEC) || pipe2(out, O_CLOEXEC) || pipe2(err, O_CLOEXEC) ||
	    pipe2(control, O_CLOEXEC | O_NONBLOCK))
		return report("pipe", errno);
	if (owner != (uid_t)-1 && (fchown(stdin_pipe[0], owner, owner) ||
				   fchown(out[1], owner, owner) || fchown(err[1], owner, owner)))
		return report("pipe", errno);
	pipes[0] = inode(stdin_pipe[0]), pipes[1] = inode(out[0]), pipes[2] = inode(err[0]);
	if (input && fill_input())
		return report("stdio", errno);
	started = clock_now(CLOCK_REALTIME) - ran;
	began = clock_now(CLOCK_MONOTONIC) - ran;
	const int ends[3] = {stdin_pipe[0], out[1], err[1]};
	pid_t pid = box ? open_box(program, args, joins, njoins, last_pid, ends) : vfork();
	if (pid == 0)
		become_program(stdin_pipe[0], out[1], err[1]);
	if (pid < 0)
		return report("fork", errno);
	for (int i = 3; i < 3 + passed; i++)
		close(i);
	close(stdin_pipe[0]), close(out[1]), close(err[1]);
	begin_output(out[0], err[0]);
	if (input_closed) {
		close(stdin_pipe[1]);
		stdin_pipe[1] = -1;
	}
	if (failed)
		return report(failed, failure);
	first = pid;
	return box ? await_box(pid) : pidfile ? await_launcher(pid) : 0;
}

/* Output */

static int pump_all(void)
{
	int stuck = carry_output(stdio_limit);
	const char *word = stuck ? "full" : "ok";
	if (strcmp(word, disk) || (synced != sync_asked && !stuck)) {
		disk = word;
		synced = stuck ? synced : sync_asked;
		write_keeper(first);
	}
	return stuck;
}

/* Killing */

/* One pass, repeated until none is left.  The stopping first is for fork bombs: once a
   round finds no more than the one before, nobody is left to fork. */
static void kill_tree(void)
{
	size_t seen = 0, now;
	int whole = killfile && write_file(killfile, "1") == 0;
	last_pass = clock_now(CLOCK_MONOTONIC);
	if (kill_passes++ < 4 && whole)
		return;
	if (freezer)
		write_file(freezer, "FROZEN");
	for (int round = 0; round < 50; round++, seen = now)
		if ((now = signal_descendants(self, SIGSTOP)) <= seen)
			break;
	signal_descendants(self, SIGKILL);
	if (freezer)
		write_file(freezer, "THAWED");
}

/* Whether it may not run: nobody that knows said so in time. */
static int lapsed(void)
{
	return lease > 0 && !kill_passes && clock_now(CLOCK_BOOTTIME) >= lease;
}

static void hold_tree(void)
{
	char path[4096];
	const char *slash = killfile ? strrchr(killfile, '/') : NULL;
	if (freezer && write_file(freezer, "FROZEN") == 0)
		return;
	if (slash) {	/* beside cgroup.kill */
		snprintf(path, sizeof path, "%.*s/cgroup.freeze", (int)(slash - killfile), killfile);
		if (write_file(path, "1") == 0)
			return;
	}
	signal_descendants(self, SIGSTOP);
}

static void begin_kill(const char *reason)
{
	if (!why[0])
		snprintf(why, sizeof why, "%s", reason);
	kill_tree();
}

/* Requests */

static void ask_signal(const char *text)
{
	int number = atoi(text);
	if (box && !first_ended && boxed_status(&first_status))
		first_ended = 1;
	if (first_ended || number <= 0 || number >= NSIG)
		return;
	if (pidfile && ends_by(first, number)) {
		ended_by = number;
		number = SIGKILL;
	}
	kill(first, number);
}

static void ask_stdin(const char *unused)
{
	(void)unused;
	if (stdin_pipe[1] >= 0)
		close(stdin_pipe[1]);
	stdin_pipe[1] = -1;
	write_keeper(first);
}

static void ask_sync(const char *text) { sync_asked = strtoul(text, NULL, 10); }

static void ask_reopen(const char *unused)
{
	(void)unused;
	reopen_output();
}

static const struct { const char *verb; void (*act)(const char *); } REQUESTS[] = {
	{"kill ", begin_kill}, {"signal ", ask_signal}, {"stdin", ask_stdin}, {"time ", key_time},
	{"sync ", ask_sync}, {"lease ", key_lease}, {"reopen", ask_reopen},
};

static void take_requests(void)
{
	static char line[1024];
	static size_t used;
	char c;
	while (read(control[0], &c, 1) == 1) {
		if (c != '\n') {
			if (used < sizeof line - 1)
				line[used++] = c;
			continue;
		}
		line[used] = '\0';
		used = 0;
		for (size_t i = 0; i < sizeof REQUESTS / sizeof *REQUESTS; i++)
			if (!strncmp(line, REQUESTS[i].verb, strlen(REQUESTS[i].verb)))
				REQUESTS[i].act(line + strlen(REQUESTS[i].verb));
	}
}

/* The end */

static void add_usage(const struct rusage *used)
{
	timeradd(&sum.ru_utime, &used->ru_utime, &sum.ru_utime);
	timeradd(&sum.ru_stime, &used->ru_stime, &sum.ru_stime);
	sum.ru_inblock += used->ru_inblock;
	sum.ru_oublock += used->ru_oublock;
	if (used->ru_maxrss > sum.ru_maxrss)
		sum.ru_maxrss = used->ru_maxrss;
}

/* Whether a process of the tree is left. */
static int reap(void)
{
	struct rusage used;
	int status;
	pid_t pid;
	while ((pid = wait4(-1, &status, WNOHANG | __WALL, &used)) > 0) {
		add_usage(&used);
		if (pid == first && !first_ended) {
			first_ended = 1;
			first_status = status;
		}
	}
	return pid == 0 || errno != ECHILD;
}

static int write_exit(double real)
{
	char line[1024], code[16] = "", number[16] = "";
	if (WIFSIGNALED(first_status))
		snprintf(number, sizeof number, "%d",
			 WTERMSIG(first_status) == SIGKILL && ended_by ? ended_by
								       : WTERMSIG(first_status));
	else
		snprintf(code, sizeof code, "%d", WEXITSTATUS(first_status));
	int n = snprintf(line, sizeof line,
		"pid=%d code=%s signal=%s user=%ld.%06ld sys=%ld.%06ld real=%.6f ended=%.6f "
		"maxrss=%lld read=%lld written=%lld why=%s\n",
		first, code, number, (long)sum.ru_utime.tv_sec, (long)sum.ru_utime.tv_usec,
		(long)sum.ru_stime.tv_sec, (long)sum.ru_stime.tv_usec, real, 
		clock_now(CLOCK_REALTIME), sum.ru_maxrss * 1024LL, sum.ru_inblock * 512LL,
		sum.ru_oublock * 512LL, why[0] ? why : "''");
	int fd = openat(DIRECTORY, "keeper", O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return -1;
	int bad = pwrite(fd, line, n, keeper_size) != n || fsync(fd);
	close(fd);
	return bad || renameat(DIRECTORY, "keeper", DIRECTORY, "exit") ? -1 : 0;
}

static void finish(void)
{
	double real = clock_now(CLOCK_MONOTONIC) - began;
	struct timespec second = {1, 0};
	if (box && !first_ended && !boxed_status(&first_status))
		first_status = SIGKILL;	/* the box ends before its first only when it is killed */
	while (pump_all())
		nanosleep(&second, NULL);
	while (write_exit(real))
		nanosleep(&second, NULL);
}

static int pause_for(int stuck)
{
	double left = began + time_limit - clock_now(CLOCK_MONOTONIC);
	if (kill_passes)
		return KILL_PAUSE;
	if (lapsed())
		return HOLD_PAUSE;
	if (time_limit > 0 && left * 1000 < RETRY_PAUSE)
		return left > 0 ? (int)(left * 1000) + 1 : 0;
	if (stuck)
		return RETRY_PAUSE;
	return time_limit > 0 ? (left < 1e6 ? (int)(left * 1000) + 1 : 1000000000) : -1;
}

static void keep(void)
{
	sigset_t only_child;
	int stuck = 0;
	sigfillset(&only_child);
	sigdelset(&only_child, SIGCHLD);
	while (reap()) {
		int held = lapsed();
		struct pollfd fds[4] = {{control[0], POLLIN, 0}};
		for (int i = 0; i < 2; i++)	/* what it may not have written stays in the pipe */
			fds[i + 1] = (struct pollfd){held ? -1 : output_pipe(i), POLLIN, 0};
		fds[3] = (struct pollfd){held ? -1 : lease_timer, POLLIN, 0};
		int ms = pause_for(stuck);
		struct timespec wait = {ms / 1000, ms % 1000 * 1000000L};
		ppoll(fds, 4, ms < 0 ? NULL : &wait, &only_child);
		take_requests();
		if (lapsed())
			hold_tree();
		else
			stuck = pump_all();
		if (kill_passes && clock_now(CLOCK_MONOTONIC) - last_pass >= KILL_PAUSE / 1e3)
			kill_tree();
		else if (!kill_passes && time_limit > 0 &&
			 clock_now(CLOCK_MONOTONIC) - began >= time_limit)
			begin_kill("'time limit'");
	}
	finish();
}

static void on_child(int number) { (void)number; }

int main(void)
{
	sigset_t all;
	self = getpid();
	setsid();
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, NULL);
	signal(SIGCHLD, on_child);
	fcntl(DIRECTORY, F_SETFD, FD_CLOEXEC);
	fcntl(REPORT, F_SETFD, FD_CLOEXEC);
	if (read_order())
		return report("order", EINVAL);
	syscall(SYS_close_range, 3 + passed, ~0U, 0);	/* musl has no function for it */
	close(ORDER);
	if (start()) {
		unlinkat(DIRECTORY, "keeper", 0);
		return 1;
	}
	carry_output(stdio_limit);	/* makes the files, so that they are there from the start */
	char line[4096];
	int n = keeper_record(line, sizeof line, first);
	if (write(REPORT, line, n) < 0)
		n = 0;	/* the daemon is gone: the object runs all the same */
	close(REPORT);
	keep();
	return 0;
}
