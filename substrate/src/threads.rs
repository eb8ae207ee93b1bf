//! How many threads the arithmetic may use.
//!
//! candle sizes its thread pools once, at first use, and only from the environment: `RAYON_NUM_THREADS` for the
//! floating-point products, `CANDLE_NUM_THREADS` for the quantised ones; without them it takes every core it sees,
//! whatever share of them the container has. A running program cannot change its own environment soundly, so a bound
//! that differs from the environment is applied by starting the same program again in the same process (`exec`), which
//! keeps its id, its open files and its place under whoever supervises it.

use std::ffi::OsString;

/// The variables that candle reads.
pub const VARIABLES: [&str; 2] = ["RAYON_NUM_THREADS", "CANDLE_NUM_THREADS"];

/// Whether the environment already says `threads` for each of [`VARIABLES`].
pub fn is_set(threads: usize, get: impl Fn(&str) -> Option<OsString>) -> bool {
    let wanted = OsString::from(threads.to_string());
    VARIABLES
        .iter()
        .all(|name| get(name).as_ref() == Some(&wanted))
}

/// Bounds the threads of the arithmetic to `threads` (at least 1). Call it first in `main`, before anything runs.
///
/// Returns when the bound holds. Otherwise the program starts again from its first line with the bound set.
///
/// # Errors
/// When the program cannot be started again; the bound then does not hold.
#[cfg(unix)]
pub fn bound(threads: usize) -> std::io::Result<()> {
    use std::os::unix::process::CommandExt as _;
    let threads = threads.max(1);
    if is_set(threads, |name| std::env::var_os(name)) {
        return Ok(());
    }
    let mut arguments = std::env::args_os();
    let name = arguments.next();
    let mut command = std::process::Command::new(std::env::current_exe()?);
    if let Some(name) = name {
        command.arg0(name);
    }
    command.args(arguments);
    for variable in VARIABLES {
        command.env(variable, threads.to_string());
    }
    Err(command.exec())
}

/// Threads that this process may run at once: what the operating system grants, container limits included.
pub fn available() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_variables_must_say_it() {
        let cases: [(&[(&str, &str)], bool); 4] = [
            (&[], false),
            (&[("RAYON_NUM_THREADS", "2")], false),
            (
                &[("RAYON_NUM_THREADS", "2"), ("CANDLE_NUM_THREADS", "3")],
                false,
            ),
            (
                &[("RAYON_NUM_THREADS", "2"), ("CANDLE_NUM_THREADS", "2")],
                true,
            ),
        ];
        for (environment, expected) in cases {
            let get = |name: &str| {
                environment
                    .iter()
                    .find(|(n, _)| *n == name)
                    .map(|(_, v)| OsString::from(v))
            };
            assert_eq!(is_set(2, get), expected, "{environment:?}");
        }
    }
}
