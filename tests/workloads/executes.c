/* Its child becomes another program, `other`, which does all the work. */
#include <sys/wait.h>
#include <unistd.h>

int main(void) {
    for (;;) {
        if (fork() == 0) {
            execl("./other", "other", (char *)0);
            _exit(127);
        }
        wait(0);
    }
}
