/* A program that loads CPython's shared library and runs what it is told, as the interpreter would. */
#include <dlfcn.h>
#include <stdio.h>

int main(int count, char **arguments) {
    void *library = dlopen("libpython3.11.so.1.0", RTLD_NOW | RTLD_GLOBAL);
    int (*run)(int, char **) = library ? (int (*)(int, char **))dlsym(library, "Py_BytesMain") : NULL;
    if (!run) {
        printf("%s: apt-get install libpython3.11\n", dlerror());
        return 1;
    }
    return run(count, arguments);
}
