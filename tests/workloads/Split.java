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

    /** Rounds of different lengths: none can beat in time with the sampling. */
    private static long units = 100_000;

    private static void three() {
        sink = work(3 * units);
    }

    private static void two() {
        sink = work(2 * units);
    }

    private static void one() {
        sink = work(units);
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
        long random = 1;
        while (true) {
            random = random * 6364136223846793005L + 1442695040888963407L;
            units = 50_000 + (random >>> 33) % 200_000;
            recurse(20);
        }
    }
}
