//! Ends a test program that hangs, and says where it was.

use std::collections::HashMap;
use std::sync::Once;
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// How long a point may take: some milliseconds as a rule; this is for the busiest of machines.
const LIMIT: Duration = Duration::from_secs(120);

/// What each thread is at, and since when.
static AT: Mutex<Option<HashMap<ThreadId, (Instant, String)>>> = Mutex::new(None);

/// From now on this thread is at `what`.
pub fn watch(what: &str) {
    static STARTED: Once = Once::new();
    STARTED.call_once(|| drop(thread::spawn(look_on)));
    let entry = (Instant::now(), what.to_owned());
    AT.lock().get_or_insert_default().insert(thread::current().id(), entry);
}

/// This thread is done.
pub fn rest() {
    AT.lock().get_or_insert_default().remove(&thread::current().id());
}

fn look_on() {
    loop {
        thread::sleep(Duration::from_secs(1));
        let late =
            AT.lock().get_or_insert_default().values().find(|(since, _)| since.elapsed() > LIMIT).cloned();
        if let Some((_, what)) = late {
            eprintln!("nothing has come of it in {LIMIT:?}: {what}");
            std::process::abort();
        }
    }
}
