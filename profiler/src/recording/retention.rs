//! Leaving out of a recording what is over, so that one that goes on for hours stays small. SQLite uses the room again.

use rusqlite::{Connection, Result, params};

/// More stacks or texts than this since the last time are worth a look which of them are still needed.
pub(super) const MANY: usize = 1 << 16;

/// Removes samples, calls, gauges and processes that were over before this moment. The newest row of each table that is
/// followed stays: SQLite would give its number again.
pub(super) fn forget_before(connection: &Connection, before_ns: i64) -> Result<()> {
    for statement in [
        "DELETE FROM samples WHERE ts < ?1 AND rowid < (SELECT max(rowid) FROM samples)",
        "DELETE FROM gauges WHERE ts < ?1 AND rowid < (SELECT max(rowid) FROM gauges)",
        "DELETE FROM calls WHERE end_ns < ?1 AND id < (SELECT max(id) FROM calls)",
        "DELETE FROM unwinding WHERE process IN (SELECT id FROM processes WHERE exit_ns < ?1)",
        "DELETE FROM processes WHERE exit_ns < ?1",
    ] {
        connection.prepare_cached(statement)?.execute(params![before_ns])?;
    }
    // The recorder tells a thread anew when it is sampled again.
    for statement in [
        "DELETE FROM threads WHERE id NOT IN (SELECT thread FROM samples)",
        "DELETE FROM contents WHERE call NOT IN (SELECT id FROM calls)",
    ] {
        connection.prepare_cached(statement)?.execute([])?;
    }
    Ok(())
}

/// Removes stacks that no sample has any more.
pub(super) fn sweep_stacks(connection: &Connection) -> Result<()> {
    connection.execute_batch(
        "DELETE FROM stacks WHERE id NOT IN (
             WITH RECURSIVE used(id) AS (
                 SELECT stack FROM samples WHERE stack IS NOT NULL
                 UNION
                 SELECT parent FROM stacks JOIN used USING (id) WHERE parent IS NOT NULL
             )
             SELECT id FROM used
         )",
    )
}

/// Removes texts that no function and no call has any more.
pub(super) fn sweep_strings(connection: &Connection) -> Result<()> {
    let of_calls = |table: &str| {
        let columns = ["method", "name", "trace_parent", "error_message"];
        columns
            .map(|column| format!("UNION SELECT {column} FROM {table} WHERE {column} IS NOT NULL "))
            .concat()
    };
    connection.execute_batch(&format!(
        "DELETE FROM strings WHERE id NOT IN (
             SELECT function FROM lines
             UNION SELECT file FROM lines WHERE file IS NOT NULL
             {} {}
         )",
        of_calls("calls"),
        of_calls("in_flight")
    ))
}
