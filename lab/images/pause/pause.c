/* The first process of a pod: it holds the pod's namespaces, reaps what is orphaned in a shared PID namespace, and goes at once. */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static void stop(int signal) { (void)signal; _exit(0); }
static void reap(int signal) { (void)signal; while (waitpid(-1, NULL, WNOHANG) > 0) { } }

int main(int argc, char **argv) {
	if (argc > 1 && strcmp(argv[1], "-v") == 0) return puts("pause 3.10.2") < 0;
	struct sigaction stopping = {.sa_handler = stop}, reaping = {.sa_handler = reap, .sa_flags = SA_NOCLDSTOP};
	if (sigaction(SIGINT, &stopping, NULL) || sigaction(SIGTERM, &stopping, NULL) || sigaction(SIGCHLD, &reaping, NULL)) return 1;
	for (;;) pause();
}
