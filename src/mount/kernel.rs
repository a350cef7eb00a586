//! What the kernel must be told so that it keeps no attributes that are no longer true.
//!
//! When it changes a directory, a name or an attribute, the kernel drops what it keeps of the inode's times. It does not drop an
//! answer that was given to another thread before, and that this thread comes to read only afterwards: it would keep that
//! one, which is valid for good, until the next change. A notification makes it pass over such answers, and over all that
//! it keeps of the inode, which it then asks for again. So it is sent only where there may be such an answer: a thread
//! waits for the answer to each of its requests, hence of its own none is on its way while it makes a change.
//!
//! Measured on one processor: a notification takes 1.5 µs, the question that may follow 7 µs; a rename takes 32 µs.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use fuser::{INodeNo, Notifier};
use parking_lot::Mutex;

use crate::format::Ino;

/// How late a thread may read an answer that was given to it: as long as it may wait for a processor.
const LATE: Duration = Duration::from_secs(10);

/// The kernel, as the one to be told.
#[derive(Clone, Default)]
pub(super) struct Kernel(Arc<Inner>);

#[derive(Default)]
struct Inner {
    /// There once it is mounted.
    notifier: OnceLock<Notifier>,
    askers: Mutex<Askers>,
}

impl Kernel {
    pub(super) fn mounted(&self, notifier: Notifier) {
        // Set once, by the one who mounts.
        let _ = self.0.notifier.set(notifier);
    }

    /// Makes the kernel ask for an inode's attributes again, before it is told that its request is done:
    /// it goes on executing a program with suid bits that it keeps. Content stays (the offset is
    /// negative), so this waits for no page and no lock, and may be called while a request is under way.
    pub(super) fn forget_attributes(&self, ino: Ino) {
        let told = self.0.notifier.get().map(|notifier| notifier.inval_inode(INodeNo(ino.0), -1, 0));
        if let Some(Err(error)) = told {
            log::debug!("telling the kernel of a change: {error}");
        }
    }

    /// A request came whose answer has attributes in it.
    pub(super) fn asked(&self, request: &fuser::Request) {
        self.0.askers.lock().asked(request.pid(), Instant::now());
    }

    /// `done`, which answers a request that has changed inodes of which the answer tells nothing, behind what the kernel must
    /// be told of them.
    pub(super) fn once_changed<R, T, const N: usize>(
        &self,
        request: &fuser::Request,
        inodes: [INodeNo; N],
        done: impl FnOnce(R, T) + Send + 'static,
    ) -> impl FnOnce(R, T) + Send + 'static {
        let (kernel, by) = (self.clone(), request.pid());
        move |reply, value| {
            kernel.changed(by, inodes.map(|ino| Ino(ino.0)));
            done(reply, value);
        }
    }

    /// Makes the kernel pass over answers that may be on their way to other threads than the one that has just changed
    /// these inodes; before that one's request is answered.
    pub(super) fn changed(&self, by: u32, inodes: impl IntoIterator<Item = Ino>) {
        if self.0.askers.lock().others(by, Instant::now()) {
            inodes.into_iter().for_each(|ino| self.forget_attributes(ino));
        }
    }
}

/// The threads that asked for attributes last. By their numbers, as the kernel tells them: 0 is any that it does not show here.
#[derive(Default)]
struct Askers {
    /// The last one, and when.
    last: Option<(u32, Instant)>,
    /// When another one did last.
    other: Option<Instant>,
}

impl Askers {
    fn asked(&mut self, thread: u32, now: Instant) {
        if let Some((last, at)) = self.last
            && (last != thread || thread == 0)
        {
            self.other = Some(at);
        }
        self.last = Some((thread, now));
    }

    /// Whether another thread than this may have an answer to read.
    fn others(&self, thread: u32, now: Instant) -> bool {
        let last = self.last.filter(|(last, _)| *last != thread || thread == 0).map(|(_, at)| at);
        last.max(self.other).is_some_and(|at| now.saturating_duration_since(at) < LATE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_asks_alone_has_no_answers_of_others_to_fear() {
        let now = Instant::now();
        let mut askers = Askers::default();
        assert!(!askers.others(1, now), "nobody has asked");
        askers.asked(1, now);
        askers.asked(1, now);
        assert!(!askers.others(1, now));
        assert!(askers.others(2, now));
    }

    #[test]
    fn an_answer_to_another_is_feared_until_it_was_surely_read() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut askers = Askers::default();
        askers.asked(1, at(0));
        askers.asked(2, at(5));
        askers.asked(1, at(6));
        askers.asked(1, at(7));
        assert!(askers.others(1, at(14)), "of the second");
        assert!(!askers.others(1, at(15)));
        assert!(askers.others(2, at(16)), "of the first");
        assert!(!askers.others(2, at(17)));
        assert!(askers.others(3, at(16)));
    }

    #[test]
    fn threads_without_a_number_may_be_any() {
        let now = Instant::now();
        let mut askers = Askers::default();
        askers.asked(0, now);
        assert!(askers.others(0, now) && askers.others(1, now));
        askers.asked(1, now);
        assert!(askers.others(1, now));
    }
}
