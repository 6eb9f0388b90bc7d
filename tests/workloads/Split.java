/** CPU time in three methods as 3 : 2 : 1, below a recursion of a known depth. */
public final class Split {
    private static volatile long sink;

    private static long work(long rounds) {
        long value = 1;
        for (long round = 0; round < rounds; round++) {
            value = value * 6364136223846793005L + 1442695040888963407L;
            value ^= value >>> 17;
        }
        return value;
    }

    private static void three() {
        sink = work(300_000);
    }

    private static void two() {
        sink = work(200_000);
    }

    private static void one() {
        sink = work(100_000);
    }

    private static void recurse(int left) {
        if (left > 0) {
            recurse(left - 1);
            return;
        }
        three();
        two();
        one();
    }

    public static void main(String[] arguments) {
        // Until the compilers are done: the interpreter's frames have no names of their own.
        for (int warm = 0; warm < 500; warm++) {
            recurse(20);
        }
        System.out.println("ready");
        while (true) {
            recurse(20);
        }
    }
}
