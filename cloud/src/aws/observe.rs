//! Who watches the calls. The operator counts them; this crate knows no metrics library.

use std::time::Duration;

/// Told of every call. Called on the caller's task: it must not block.
pub trait CallObserver: Send + Sync {
    /// One HTTP exchange ended, each attempt of a call by itself. `code` is `OK`, the cloud's error code (such as
    /// `RequestLimitExceeded`), or a name of our own if nothing answered (`Timeout`, `ConnectFailed`, `MalformedAnswer`, ...).
    fn observed(&self, action: &'static str, code: &str, elapsed: Duration);

    /// One call ends, starts or stops this many instances at once.
    fn batched(&self, action: &'static str, size: usize) {
        let _ = (action, size);
    }

    /// A call was held back by our own pace for this long before it was sent.
    fn delayed(&self, action: &'static str, wait: Duration) {
        let _ = (action, wait);
    }
}

/// Watches nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoObserver;

impl CallObserver for NoObserver {
    fn observed(&self, _action: &'static str, _code: &str, _elapsed: Duration) {}
}
