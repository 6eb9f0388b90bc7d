//! What is counted of streams besides their calls.

/// What was seen besides calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// JSON-RPC messages.
    pub messages: u64,
    /// Lines between them that were none.
    pub skipped_lines: u64,
    /// HTTP heads and bodies that could not be understood.
    pub unreadable_http: u64,
    /// Messages too long to be taken whole, whose rest does not tell what they were.
    pub cut_messages: u64,
    /// Stretches of streams that were lost, each with nobody knows how many messages.
    pub lost_stretches: u64,
    /// JSON-RPC notifications, other than cancellations.
    pub notifications: u64,
    /// Responses to no request that was seen: those to requests from before the start are among them.
    pub unmatched_responses: u64,
    /// Requests with the ID of one that still waited.
    pub repeated_ids: u64,
    /// Requests that were not waited for any longer, as too many did.
    pub given_up: u64,
    /// Half-read messages that were dropped: all of them together took too much memory.
    pub dropped_messages: u64,
    /// Encrypted streams, of processes in which nothing of that is seen in plain.
    pub encrypted_streams: u64,
    /// Processes that have an `io_uring`, and of which no message is seen: what they move by it is not.
    pub io_uring_processes: u64,
    /// Requests whose arguments were not kept, though they were asked for, as too many waited.
    pub contents_dropped: u64,
}

impl Counts {
    /// Adds those of another.
    pub fn add(&mut self, other: Self) {
        let Self {
            messages,
            skipped_lines,
            unreadable_http,
            cut_messages,
            lost_stretches,
            notifications,
            unmatched_responses,
            repeated_ids,
            given_up,
            dropped_messages,
            encrypted_streams,
            io_uring_processes,
            contents_dropped,
        } = self;
        *messages += other.messages;
        *skipped_lines += other.skipped_lines;
        *unreadable_http += other.unreadable_http;
        *cut_messages += other.cut_messages;
        *lost_stretches += other.lost_stretches;
        *notifications += other.notifications;
        *unmatched_responses += other.unmatched_responses;
        *repeated_ids += other.repeated_ids;
        *given_up += other.given_up;
        *dropped_messages += other.dropped_messages;
        *encrypted_streams += other.encrypted_streams;
        *io_uring_processes += other.io_uring_processes;
        *contents_dropped += other.contents_dropped;
    }

    /// Each count with the name that recordings and reports use.
    pub fn named(self) -> [(&'static str, u64); 13] {
        [
            ("messages", self.messages),
            ("notifications", self.notifications),
            ("skipped_lines", self.skipped_lines),
            ("unreadable_http", self.unreadable_http),
            ("cut_messages", self.cut_messages),
            ("lost_stretches", self.lost_stretches),
            ("unmatched_responses", self.unmatched_responses),
            ("repeated_ids", self.repeated_ids),
            ("given_up", self.given_up),
            ("dropped_messages", self.dropped_messages),
            ("encrypted_streams", self.encrypted_streams),
            ("io_uring_processes", self.io_uring_processes),
            ("contents_dropped", self.contents_dropped),
        ]
    }
}
