//! How often each kind of request came, for `status` and SIGUSR1.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

macro_rules! requests {
    ($($name:ident),* $(,)?) => {
        /// A kind of request.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[expect(missing_docs, reason = "the names are the protocol's")]
        pub enum Request { $($name),* }

        impl Request {
            const ALL: &[Request] = &[$(Request::$name),*];

            /// Its name.
            pub fn name(self) -> &'static str {
                match self { $(Request::$name => stringify!($name)),* }
            }
        }
    };
}

requests!(
    Lookup,
    Forget,
    GetAttr,
    SetAttr,
    ReadLink,
    Symlink,
    MkNod,
    MkDir,
    Unlink,
    RmDir,
    Rename,
    Link,
    Open,
    Read,
    Write,
    StatFs,
    FSync,
    SetXAttr,
    GetXAttr,
    ListXAttr,
    RemoveXAttr,
    Flush,
    OpenDir,
    ReadDir,
    ReadDirPlus,
    FSyncDir,
    Create,
    FAllocate,
    LSeek,
    CopyFileRange,
);

/// One counter for each kind of request.
#[derive(Debug)]
pub struct Counters([AtomicU64; Request::ALL.len()]);

impl Default for Counters {
    fn default() -> Counters {
        Counters([const { AtomicU64::new(0) }; Request::ALL.len()])
    }
}

impl Counters {
    /// Counts a request. Called by the reader thread alone, so that a load and a store will do where
    /// an atomic addition would cost some nanoseconds of each request.
    pub fn count(&self, request: Request) {
        if let Some(counter) = self.0.get(request as usize) {
            counter.store(counter.load(Relaxed).wrapping_add(1), Relaxed);
        }
    }

    /// The kinds that occurred, with how often.
    pub fn list(&self) -> impl Iterator<Item = (&'static str, u64)> {
        Request::ALL
            .iter()
            .zip(&self.0)
            .map(|(request, counter)| (request.name(), counter.load(Relaxed)))
            .filter(|(_, count)| *count > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_occurred_is_listed_under_its_name() {
        let counters = Counters::default();
        counters.count(Request::Read);
        counters.count(Request::CopyFileRange);
        counters.count(Request::Read);
        assert_eq!(counters.list().collect::<Vec<_>>(), [("Read", 2), ("CopyFileRange", 1)]);
    }
}
