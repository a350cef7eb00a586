//! What comes through the daemon's socket, and what the command is answered.
//!
//! ```text
//! pieces u8 │ what a client sends, in pieces of so many bytes
//! ```

use super::take_byte;
use crate::control::{Answer, MAX_BODY, MAX_REQUEST, Request, receive};
use crate::store::remote::accepts;

pub(super) fn run(mut data: &[u8]) {
    let piece = usize::from(take_byte(&mut data)) + 1;
    let sent = data;
    let mut left = data;
    let mut read = |into: &mut [u8]| {
        let (now, later) = left.split_at(piece.min(into.len()).min(left.len()));
        into.iter_mut().zip(now).for_each(|(place, byte)| *place = *byte);
        left = later;
        Ok(now.len())
    };
    match receive(&mut read) {
        Ok((request, body)) => {
            let line = serde_json::to_vec(&request).expect("a request is written");
            assert_eq!(serde_json::from_slice::<Request>(&line).ok(), Some(request));
            assert!(line.len() as u64 <= MAX_REQUEST);
            let (Request::Keys { body: said } | Request::Backup { body: said } | Request::Set { body: said }) =
                request
            else {
                return;
            };
            assert!(said <= MAX_BODY && body.len() == said as usize);
            let end = sent.iter().position(|byte| *byte == b'\n').expect("a body follows a line") + 1;
            assert!(sent.get(end..).is_some_and(|behind| behind.starts_with(&body)));
            accepts(&body);
        }
        Err(why) => assert!(!why.is_empty()),
    }
    // Bodies of their own, as few lines of JSON come about by chance.
    accepts(sent);
    if let Ok(answer) = serde_json::from_slice::<Answer>(sent) {
        let line = serde_json::to_vec(&answer).expect("an answer is written");
        assert!(!line.contains(&b'\n'), "an answer of several lines");
        // The last digit of a long fraction may change; no answer of ours has any that long.
        let again = serde_json::from_slice::<Answer>(&line).expect("an answer that was written");
        assert_eq!(std::mem::discriminant(&again), std::mem::discriminant(&answer));
    }
}
