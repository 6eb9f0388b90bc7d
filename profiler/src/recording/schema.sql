-- One recording. `PRAGMA user_version` tells the version of this schema.
-- Times are nanoseconds on CLOCK_MONOTONIC unless a name says otherwise. IDs count from 1.

CREATE TABLE meta (key TEXT PRIMARY KEY, value NOT NULL) WITHOUT ROWID;
CREATE TABLE strings (id INTEGER PRIMARY KEY, text TEXT NOT NULL);
CREATE TABLE processes (
    id INTEGER PRIMARY KEY,
    pid INTEGER NOT NULL,
    parent INTEGER REFERENCES processes,
    command TEXT NOT NULL,
    runtime TEXT NOT NULL,
    runtime_version TEXT,
    first_ns INTEGER NOT NULL,
    exit_ns INTEGER,
    project TEXT                    -- since version 2
);
-- How the stacks of a process were made, in words for people. Since version 2.
CREATE TABLE unwinding (
    process INTEGER PRIMARY KEY REFERENCES processes,
    native TEXT NOT NULL,           -- machine code
    language TEXT,                  -- the language's own frames
    advice TEXT                     -- what to do for better ones
);
CREATE TABLE threads (
    id INTEGER PRIMARY KEY,
    process INTEGER NOT NULL REFERENCES processes,
    tid INTEGER NOT NULL,
    name TEXT NOT NULL
);
CREATE TABLE modules (id INTEGER PRIMARY KEY, path TEXT NOT NULL, build_id TEXT);
CREATE TABLE frames (
    id INTEGER PRIMARY KEY,
    kind INTEGER NOT NULL,          -- FrameKind; 6 since version 4
    module INTEGER NOT NULL REFERENCES modules,
    offset INTEGER NOT NULL
);
-- The functions at a frame's address: position 0 is the outermost one, later ones are inlined into it.
CREATE TABLE lines (
    frame INTEGER NOT NULL REFERENCES frames,
    position INTEGER NOT NULL,
    function INTEGER NOT NULL REFERENCES strings,
    file INTEGER REFERENCES strings,
    line INTEGER,
    PRIMARY KEY (frame, position)
) WITHOUT ROWID;
CREATE TABLE stacks (
    id INTEGER PRIMARY KEY,
    parent INTEGER REFERENCES stacks,  -- the caller; always a smaller id
    frame INTEGER NOT NULL REFERENCES frames
);
CREATE TABLE samples (
    ts INTEGER NOT NULL,
    thread INTEGER NOT NULL REFERENCES threads,
    kind INTEGER NOT NULL,          -- 1: on a CPU
    stack INTEGER REFERENCES stacks,
    weight_ns INTEGER NOT NULL,
    stack_end INTEGER NOT NULL      -- StackEnd
);
CREATE TABLE gauges (
    ts INTEGER NOT NULL,
    process INTEGER NOT NULL REFERENCES processes,
    kind INTEGER NOT NULL,          -- GaugeKind
    value INTEGER NOT NULL
);
-- JSON-RPC requests and what became of them, from the side of the process that answered, or of a server that asks its client.
CREATE TABLE calls (
    id INTEGER PRIMARY KEY,
    process INTEGER NOT NULL REFERENCES processes,
    session INTEGER NOT NULL,       -- whose IDs are shared
    caller INTEGER NOT NULL,        -- Side
    method INTEGER NOT NULL REFERENCES strings,
    name INTEGER REFERENCES strings,    -- tool, prompt or resource
    trace_parent INTEGER REFERENCES strings,
    start_ns INTEGER NOT NULL,
    request_end_ns INTEGER NOT NULL,
    response_ns INTEGER,
    end_ns INTEGER NOT NULL,
    request_thread INTEGER NOT NULL,    -- thread ID on the host; 0: not known
    response_thread INTEGER NOT NULL,
    request_bytes INTEGER NOT NULL,
    response_bytes INTEGER NOT NULL,
    requests INTEGER NOT NULL,      -- more than one: it was asked for input
    input_wait_ns INTEGER NOT NULL,
    outcome INTEGER NOT NULL,       -- Ended; 8 since version 6
    error_code INTEGER,
    error_message INTEGER REFERENCES strings,   -- without --capture-arguments: its shape
    queue_ns INTEGER,               -- from the client's write to the server's read; since version 4
    request_id TEXT,                -- as JSON: 7, or "7"; since version 4
    session_id TEXT                 -- Mcp-Session-Id, only with --capture-arguments; since version 5
);
-- What calls were told and what they said, as JSON: only with --capture-arguments. Since version 4.
CREATE TABLE contents (
    call INTEGER PRIMARY KEY REFERENCES calls,
    arguments TEXT,
    result TEXT
);
-- Calls that had not ended at the last commit, in the form of calls. Empty in a recording that has ended; absent in older ones.
CREATE TABLE in_flight (
    id INTEGER PRIMARY KEY,
    process INTEGER NOT NULL REFERENCES processes,
    session INTEGER NOT NULL,
    caller INTEGER NOT NULL,
    method INTEGER NOT NULL REFERENCES strings,
    name INTEGER REFERENCES strings,
    trace_parent INTEGER REFERENCES strings,
    start_ns INTEGER NOT NULL,
    request_end_ns INTEGER NOT NULL,
    response_ns INTEGER,
    end_ns INTEGER NOT NULL,
    request_thread INTEGER NOT NULL,
    response_thread INTEGER NOT NULL,
    request_bytes INTEGER NOT NULL,
    response_bytes INTEGER NOT NULL,
    requests INTEGER NOT NULL,
    input_wait_ns INTEGER NOT NULL,
    outcome INTEGER NOT NULL,
    error_code INTEGER,
    error_message INTEGER REFERENCES strings,
    queue_ns INTEGER,
    request_id TEXT,
    session_id TEXT
);
-- What was seen of JSON-RPC besides calls: messages, lines that are none, responses to nothing...
CREATE TABLE messages (name TEXT PRIMARY KEY, count INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE losses (cause TEXT PRIMARY KEY, count INTEGER NOT NULL) WITHOUT ROWID;
