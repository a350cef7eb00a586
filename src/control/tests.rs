use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;

use serde_json::json;

use super::*;

fn serving() -> (tempfile::TempDir, Control) {
    let store = tempfile::tempdir().unwrap();
    let control = Control::serve(store.path(), |request, client| match request {
        Request::Status => Ok(json!({"inodes": 3})),
        Request::Sync => Err(Error::ReadOnly("a flush failed".into())),
        Request::Umount => Ok(serde_json::Value::Null),
        Request::Keys { .. } | Request::Set { .. } => Ok(json!(client.body.len())),
        Request::Backup { .. } => {
            (1..4).try_for_each(|n| client.tell(json!(n)))?;
            Ok(json!(client.body.len()))
        }
    })
    .unwrap();
    (store, control)
}

fn raw(store: &Path, bytes: &[u8]) -> String {
    let mut stream = UnixStream::connect(store.join(SOCKET)).unwrap();
    // The daemon may close before it has taken in all of an oversized request.
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let mut line = String::new();
    let _ = BufReader::new(stream).read_line(&mut line);
    line
}

#[test]
fn requests_are_answered_and_failures_come_with_their_reason() {
    let (store, control) = serving();
    assert_eq!(ask(store.path(), Request::Status).unwrap(), json!({"inodes": 3}));
    let error = ask(store.path(), Request::Sync).unwrap_err().to_string();
    assert!(error.contains("a flush failed"), "{error}");
    control.finish(&Ok(()));
    assert!(matches!(ask(store.path(), Request::Status), Err(Error::NotFound)));
}

#[test]
fn who_is_neither_root_nor_the_owner_is_refused_though_the_socket_lets_him_in() {
    const SOMEBODY: libc::uid_t = 65_534;
    if !nix::unistd::geteuid().is_root() {
        return eprintln!("skipped: only root can become somebody else");
    }
    let (store, _control) = serving();
    for path in [store.path(), &store.path().join(SOCKET)] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777)).unwrap();
    }
    let asked_by = |uid: libc::uid_t| {
        std::thread::scope(|scope| {
            let asks = scope.spawn(|| {
                #[expect(
                    unsafe_code,
                    reason = "glibc's call changes all threads, and this one is to be somebody else"
                )]
                // SAFETY: takes numbers only; the thread ends with the call's effect.
                let done = unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) };
                assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
                raw(store.path(), b"{\"command\":\"status\"}\n")
            });
            asks.join().unwrap()
        })
    };
    let refused = asked_by(SOMEBODY);
    assert!(refused.contains("only root and the user who mounted"), "{refused}");
    assert!(asked_by(0).contains("inodes"));
}

#[test]
fn malformed_and_oversized_requests_are_answered_with_an_error_and_harm_nobody() {
    let (store, control) = serving();
    for bad in [&b"\n"[..], b"status\n", b"{}\n", b"{\"command\":\"format\"}\n", b"\xff\xfe\n", b"[1,\n"] {
        let answer = raw(store.path(), bad);
        assert!(answer.contains("malformed request"), "{bad:?}: {answer}");
    }
    // A client that died before the end of its line may have meant more.
    for cut in [
        &b""[..],
        b"{\"command\":\"sync\"}",
        b"{\"command\":\"umount\"}",
        b"{\"command\":\"set\",\"body\":2}\nx",
    ] {
        let answer = raw(store.path(), cut);
        assert!(answer.contains("was cut off"), "{cut:?}: {answer}");
    }
    let answer = raw(store.path(), &vec![b' '; MAX_REQUEST as usize + 1]);
    assert!(answer.contains("longer than"), "{answer}");
    assert!(ask(store.path(), Request::Status).is_ok());
    control.finish(&Ok(()));
}

#[test]
fn a_client_that_says_nothing_does_not_hold_up_the_others() {
    let (store, control) = serving();
    let _silent = UnixStream::connect(store.path().join(SOCKET)).unwrap();
    assert!(ask(store.path(), Request::Status).is_ok());
    control.finish(&Ok(()));
}

#[test]
fn more_clients_than_are_served_at_once_are_all_answered() {
    let (store, control) = serving();
    let path = store.path();
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..4 * MAX_CLIENTS)
            .map(|n| {
                let body = vec![7; n * 1000];
                scope.spawn(move || ask_with(path, Request::Keys { body: body.len() as u32 }, &body).unwrap())
            })
            .collect();
        for (n, client) in clients.into_iter().enumerate() {
            assert_eq!(client.join().unwrap(), json!(n * 1000));
        }
    });
    control.finish(&Ok(()));
}

#[test]
fn clients_that_stall_in_each_place_hold_up_the_others_for_as_long_as_they_may_take_and_no_longer() {
    let (store, control) = serving();
    let stalled: Vec<_> = (0..3 * MAX_CLIENTS)
        .map(|n| {
            let mut stream = UnixStream::connect(store.path().join(SOCKET)).unwrap();
            // Nothing, half a request, or a body that does not come.
            let said = [&b""[..], b"{\"comm", b"{\"command\":\"keys\",\"body\":100}\nx"][n % 3];
            // Those beyond the places are turned away at once.
            let _ = stream.write_all(said);
            stream
        })
        .collect();
    let begun = std::time::Instant::now();
    assert!(ask(store.path(), Request::Status).is_ok());
    assert!(begun.elapsed() < 12 * PATIENCE, "{:?}", begun.elapsed());
    drop(stalled);
    control.finish(&Ok(()));
}

#[test]
fn whoever_asks_for_the_end_is_told_when_the_store_is_closed_and_how_that_went() {
    let (store, control) = serving();
    let path = store.path().to_owned();
    let client = std::thread::spawn(move || ask(&path, Request::Umount));
    while control.shared.waiting.lock().is_empty() {
        std::thread::yield_now();
    }
    control.finish(&Err(Error::ReadOnly("the disk is gone".into())));
    assert!(client.join().unwrap().unwrap_err().to_string().contains("the disk is gone"));
    assert!(!store.path().join(SOCKET).exists());
}

#[test]
fn a_dead_daemons_socket_is_replaced_and_the_new_one_is_private_however_long_the_path() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("x".repeat(120));
    std::fs::create_dir(&store).unwrap();
    std::fs::write(store.join(SOCKET), "left behind").unwrap();
    let control = Control::serve(&store, |_, _| Ok(serde_json::Value::Null)).unwrap();
    let mode = std::fs::metadata(store.join(SOCKET)).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(ask(&store, Request::Sync).is_ok());
    control.finish(&Ok(()));
}

#[test]
fn a_request_that_panics_is_answered_and_costs_no_place() {
    let store = tempfile::tempdir().unwrap();
    let control = Control::serve(store.path(), |request, _| match request {
        Request::Status => Ok(serde_json::Value::Null),
        _ => panic!("on purpose"),
    })
    .unwrap();
    for _ in 0..=MAX_CLIENTS {
        let error = ask(store.path(), Request::Sync).unwrap_err().to_string();
        assert!(error.contains("panicked"), "{error}");
    }
    // A place is given back a moment after its answer.
    while control.shared.clients.load(Ordering::Acquire) > 0 {
        std::thread::yield_now();
    }
    ask(store.path(), Request::Status).unwrap();
    assert!(ask(store.path(), Request::Umount).is_err());
    assert!(control.shared.waiting.lock().is_empty());
    control.finish(&Ok(()));
}

#[test]
fn an_answer_without_end_is_given_up() {
    let store = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(store.path().join(SOCKET)).unwrap();
    let babbler = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        while stream.write_all(&[b' '; 4096]).is_ok() {}
    });
    assert!(ask(store.path(), Request::Status).is_err());
    babbler.join().unwrap();
}

#[test]
fn bytes_behind_a_request_arrive_whole_or_are_refused() {
    let (store, control) = serving();
    for len in [0, 1, 511, 512, 100_000, MAX_BODY] {
        let body = vec![7; len as usize];
        let answer = ask_with(store.path(), Request::Keys { body: len }, &body).unwrap();
        assert_eq!(answer, json!(len));
    }
    let more = Request::Keys { body: MAX_BODY + 1 };
    let error = ask_with(store.path(), more, b"x").unwrap_err().to_string();
    assert!(error.contains("more than"), "{error}");
    let answer = raw(store.path(), b"{\"command\":\"keys\",\"body\":10}\nshort");
    assert!(answer.contains("cut off"), "{answer}");
    control.finish(&Ok(()));
}

#[test]
fn who_asks_for_long_work_hears_how_far_it_has_come_and_then_the_answer() {
    let (store, control) = serving();
    let mut heard = Vec::new();
    let answer = ask_watching(store.path(), Request::Backup { body: 5 }, b"/dest", &mut |progress| {
        heard.push(progress);
    });
    assert_eq!((answer.unwrap(), heard), (json!(5), vec![json!(1), json!(2), json!(3)]));
    control.finish(&Ok(()));
}
