/* Its children become another program, `other`, which does all the work. */
#include <sys/wait.h>
#include <unistd.h>

int main(void) {
    for (int children = 0;; children++) {
        if ((children % 2 ? fork() : vfork()) == 0) {
            execl("./other", "other", (char *)0);
            _exit(127);
        }
        wait(0);
    }
}
