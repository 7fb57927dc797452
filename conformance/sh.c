/* /bin/sh of the busybox stand-in: busybox's own shell, whose messages tests compare, but bash where the environment holds names
 * that are no identifiers (data-1): Debian's busybox drops those, the original image keeps them. */
#include <ctype.h>
#include <unistd.h>

extern char **environ;

int main(int argc, char **argv) {
	(void)argc;
	for (char **entry = environ; *entry; entry++)
		for (const char *c = *entry; *c && *c != '='; c++)
			if (!(isalpha((unsigned char)*c) || *c == '_' || (c > *entry && isdigit((unsigned char)*c)))) {
				execv("/bin/bash", argv);
				return 127;
			}
	execv("/bin/busybox", argv);
	return 127;
}
