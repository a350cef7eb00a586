//! Decides whether what concurrent processes saw of a few directories is possible: whether there is an
//! order of their operations, none before its call or behind its return, in which each has the result that
//! it had and the last leaves what is there (linearizability; Wing and Gong 1993, with the memory of Lowe 2017).

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};

/// Directories, and names in each.
pub const DIRS: usize = 3;
pub const NAMES: usize = 4;

/// What is at a place. `id` tells one from another: a file's inode number; else where it was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Node {
    pub kind: Kind,
    pub id: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    File,
    Dir,
    Link,
}

/// The content of all directories: the node of name `n` in directory `d` is at `d * NAMES + n`.
pub type State = [Option<Node>; DIRS * NAMES];

/// An operation on one or two places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    Create(usize),
    OpenOrCreate(usize),
    Mkdir(usize),
    Symlink(usize),
    Unlink(usize),
    Rmdir(usize),
    Stat(usize),
    Link(usize, usize),
    Rename(usize, usize),
    RenameNoReplace(usize, usize),
    Exchange(usize, usize),
}

/// What a process saw.
#[derive(Clone, Copy, Debug)]
pub struct Event {
    pub op: Op,
    /// When it was called and when it returned, nanoseconds of one clock.
    pub called: u64,
    pub returned: u64,
    pub errno: i32,
    /// What an operation that succeeded tells of its place, where it does.
    pub kind: Option<Kind>,
    /// The inode number of a file.
    pub ino: u64,
}

/// A process's progress: events done, and what the first half of a link has found.
#[derive(Clone, Hash)]
struct Progress {
    done: usize,
    found: Option<Node>,
}

/// How many half-way points are looked at before it stays undecided.
const PATIENCE: usize = 300_000;

/// What came of a search.
pub enum Verdict {
    /// Possible, and this is the state behind it.
    Possible(State),
    Impossible,
    Undecided,
}

/// Whether the histories, one for each process, can lead from `before` to `after`; of directories and
/// symbolic links only the kind is compared.
pub fn check(histories: &[Vec<Event>], before: State, after: &State) -> Verdict {
    let start = vec![Progress { done: 0, found: None }; histories.len()];
    let mut seen = HashSet::new();
    let mut todo = vec![(start, before)];
    while let Some((mut progress, state)) = todo.pop() {
        // What fits now and changes nothing whenever it comes is taken now: to wait with it could only make it
        // fit less. (Not so a rename, which does nothing between two names of one file.)
        while let Some(n) = (0..histories.len()).find(|n| {
            let Some(event) = next_of(histories, &progress, *n) else { return false };
            let reads = event.errno != 0 || matches!(event.op, Op::Stat(_) | Op::OpenOrCreate(_));
            reads && matches!(step(&state, event, progress[*n].found, 0), Some((None, same)) if same == state)
        }) {
            progress[n] = Progress { done: progress[n].done + 1, found: None };
        }
        if progress.iter().zip(histories).all(|(at, all)| at.done == all.len()) {
            if alike(&state, after) {
                return Verdict::Possible(state);
            }
            continue;
        }
        if !seen.insert(hash_of(&progress, &state)) {
            continue;
        }
        if seen.len() > PATIENCE {
            return Verdict::Undecided;
        }
        let mut next: Vec<(usize, &Event)> =
            (0..histories.len()).filter_map(|n| Some((n, next_of(histories, &progress, n)?))).collect();
        // The first to return is tried first.
        next.sort_by_key(|(_, event)| std::cmp::Reverse(event.returned));
        for (n, event) in next {
            // Of whom a directory or link is, and when it was made.
            let fresh = (n as u64 + 1) << 48 ^ event.called;
            let Some((found, changed)) = step(&state, event, progress[n].found, fresh) else { continue };
            let mut further = progress.clone();
            further[n] = Progress { done: progress[n].done + usize::from(found.is_none()), found };
            todo.push((further, changed));
        }
    }
    Verdict::Impossible
}

/// A process's next event, when it may come next: when it was called before any that is to come returned.
fn next_of<'a>(histories: &'a [Vec<Event>], progress: &[Progress], n: usize) -> Option<&'a Event> {
    let event = histories[n].get(progress[n].done)?;
    let others = histories.iter().zip(progress).filter_map(|(all, at)| all.get(at.done));
    others.map(|event| event.returned).min().filter(|horizon| event.called <= *horizon).map(|_| event)
}

/// Stands for a half-way point. That two of some million have the same of 2^64 does not happen.
fn hash_of(progress: &[Progress], state: &State) -> u64 {
    let mut hasher = DefaultHasher::new();
    (progress, state).hash(&mut hasher);
    hasher.finish()
}

fn alike(state: &State, there: &State) -> bool {
    state.iter().zip(there).all(|(a, b)| match (a, b) {
        (Some(a), Some(b)) => a.kind == b.kind && (a.kind != Kind::File || a.id == b.id),
        (a, b) => a.is_none() && b.is_none(),
    })
}

/// An operation's next step at this moment, when its result fits: what the first half of a link found,
/// and the state behind it. `fresh` is the identity of what is made.
fn step(state: &State, event: &Event, found: Option<Node>, fresh: u64) -> Option<(Option<Node>, State)> {
    let mut state = *state;
    let make = |state: &mut State, at: usize, kind| match state[at] {
        Some(_) => libc::EEXIST,
        None => {
            // The number of a file that is there is not given to another.
            let id = if kind == Kind::File { event.ino } else { fresh };
            state[at] = Some(Node { kind, id });
            0
        }
    };
    let tells = |node: Node| {
        event.kind.is_none_or(|kind| kind == node.kind) && (node.kind != Kind::File || event.ino == node.id)
    };
    let errno = match event.op {
        // With an error, what was told of a file is nothing.
        Op::Create(at) => match state[at] {
            Some(_) => libc::EEXIST,
            None if event.errno != 0 || state.contains(&Some(Node { kind: Kind::File, id: event.ino })) => {
                return None;
            }
            None => make(&mut state, at, Kind::File),
        },
        Op::OpenOrCreate(at) => match state[at] {
            Some(Node { kind: Kind::Dir, .. }) => libc::EISDIR,
            Some(Node { kind: Kind::Link, .. }) => libc::ELOOP,
            Some(node) if event.errno == 0 && !tells(node) => return None,
            Some(_) => 0,
            None if event.errno != 0 || state.contains(&Some(Node { kind: Kind::File, id: event.ino })) => {
                return None;
            }
            None => make(&mut state, at, Kind::File),
        },
        Op::Mkdir(at) => make(&mut state, at, Kind::Dir),
        Op::Symlink(at) => make(&mut state, at, Kind::Link),
        Op::Unlink(at) => match state[at] {
            None => libc::ENOENT,
            Some(Node { kind: Kind::Dir, .. }) => libc::EISDIR,
            Some(_) => {
                state[at] = None;
                0
            }
        },
        Op::Rmdir(at) => match state[at] {
            None => libc::ENOENT,
            Some(Node { kind: Kind::Dir, .. }) => {
                state[at] = None;
                0
            }
            Some(_) => libc::ENOTDIR,
        },
        Op::Stat(at) => match state[at] {
            None => libc::ENOENT,
            Some(node) if event.errno == 0 && !tells(node) => return None,
            Some(_) => 0,
        },
        // link(2) finds the one name, and then, apart from that, makes the other.
        Op::Link(from, to) => match (found, state[from]) {
            (None, None) => libc::ENOENT,
            (None, Some(node)) => return Some((Some(node), state)),
            (Some(_), _) if state[to].is_some() => libc::EEXIST,
            (Some(Node { kind: Kind::Dir, .. }), _) => libc::EPERM,
            (Some(node), _) if !state.contains(&Some(node)) => libc::ENOENT,
            (Some(node), _) => {
                state[to] = Some(node);
                0
            }
        },
        Op::Rename(from, to) | Op::RenameNoReplace(from, to) | Op::Exchange(from, to) => {
            match (state[from], state[to]) {
                (None, _) => libc::ENOENT,
                (_, Some(_)) if matches!(event.op, Op::RenameNoReplace(..)) => libc::EEXIST,
                (_, None) if matches!(event.op, Op::Exchange(..)) => libc::ENOENT,
                // Two names of one file stay as they are.
                (Some(source), Some(target)) if source == target => 0,
                (source, target) if matches!(event.op, Op::Exchange(..)) => {
                    (state[from], state[to]) = (target, source);
                    0
                }
                (Some(source), Some(target)) if source.kind == Kind::Dir && target.kind != Kind::Dir => {
                    libc::ENOTDIR
                }
                (Some(source), Some(target)) if source.kind != Kind::Dir && target.kind == Kind::Dir => {
                    libc::EISDIR
                }
                (source, _) => {
                    (state[from], state[to]) = (None, source);
                    0
                }
            }
        }
    };
    (errno == event.errno).then_some((None, state))
}

#[test]
fn the_checker_accepts_what_can_be_and_rejects_what_cannot() {
    let event = |op, called, returned, errno| Event { op, called, returned, errno, kind: None, ino: 7 };
    let empty = State::default();
    let mut made = empty;
    made[0] = Some(Node { kind: Kind::File, id: 7 });
    let possible =
        |histories: &[Vec<Event>], after| matches!(check(histories, empty, after), Verdict::Possible(_));
    // Of two that overlap either may win, but not both.
    let one = vec![event(Op::Create(0), 1, 5, 0)];
    assert!(possible(&[one.clone(), vec![event(Op::Create(0), 2, 4, libc::EEXIST)]], &made));
    assert!(!possible(&[one.clone(), vec![event(Op::Create(0), 2, 4, 0)]], &made));
    // One that was called when the other had returned must see it.
    assert!(possible(&[one.clone(), vec![event(Op::Stat(0), 2, 9, libc::ENOENT)]], &made));
    assert!(!possible(&[one.clone(), vec![event(Op::Stat(0), 6, 9, libc::ENOENT)]], &made));
    // A rename between two names of a file does nothing, and later, when one of them is another's, does all.
    let mut linked = made;
    linked[1] = made[0];
    let file = |id| Some(Node { kind: Kind::File, id });
    let mut moved = State::default();
    moved[0] = file(8);
    let histories = [vec![event(Op::Rename(1, 0), 1, 9, 0)], vec![event(Op::Rename(2, 1), 2, 8, 0)]];
    linked[2] = file(8);
    assert!(matches!(check(&histories, linked, &moved), Verdict::Possible(_)));
    // What was removed cannot be there in the end.
    assert!(possible(&[one.clone(), vec![event(Op::Unlink(0), 6, 9, 0)]], &empty));
    assert!(!possible(&[one, vec![event(Op::Unlink(0), 6, 9, 0)]], &made));
}
