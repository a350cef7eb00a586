use proptest::prelude::*;

use super::*;
use crate::pages::samples;

const CODECS: [Codec; 6] =
    [Codec::None, Codec::Lz4, Codec::Deflate(6), Codec::Gzip(6), Codec::Zstd(3), Codec::Auto];

fn sealed(codec: Codec, content: &[u8]) -> (Vec<u8>, Header) {
    let mut out = Vec::new();
    let how = How { codec, threshold: 64 };
    let header = seal(&mut out, Ino(0x0102_0304), PageNo(5), 6, how, content);
    (out, header)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[test]
fn a_raw_frame_has_these_bytes() {
    let (frame, _) = sealed(Codec::None, b"larder");
    assert_eq!(
        hex(&frame),
        concat!(
            "4c524446",
            "01",
            "00",
            "0000",
            "0000",
            "0000",
            "05000000",
            "0403020100000000",
            "0600000000000000",
            "06000000",
            "06000000",
            "ad6f21978a53c951",
            "6c6172646572"
        )
    );
}

#[test]
fn a_compressed_frame_has_these_bytes_in_its_header() {
    let content = [b'a'; 1000];
    for (codec, number) in [(Codec::Lz4, 1), (Codec::Deflate(6), 2), (Codec::Gzip(6), 3), (Codec::Zstd(3), 4)]
    {
        let (frame, header) = sealed(codec, &content);
        let stored = frame.len() as u32 - 48;
        let expected = format!(
            "4c52444601{number:02x}000000000000050000000403020100000000060000000000000{}{}{}",
            "0e8030000",
            hex(&stored.to_le_bytes()),
            hex(&header.checksum.to_le_bytes())
        );
        assert_eq!(hex(&frame[..48]), expected, "{codec}");
        assert_eq!(peek(&frame), Some(header));
    }
}

/// Frames of each codec as version 1 wrote them: they must open forever, whatever their codec's library
/// would write today.
#[test]
fn frames_of_version_1_open() {
    let content = [b'a'; 1000];
    for frame in FRAMES {
        let bytes: Vec<u8> =
            (0..frame.len() / 2).map(|n| u8::from_str_radix(&frame[2 * n..2 * n + 2], 16).unwrap()).collect();
        let header = peek(&bytes).unwrap();
        assert_eq!(open(&bytes, header.checksum).unwrap(), content, "{}", header.codec);
    }
}

const FRAMES: [&str; 4] = [
    "4c52444601010000000000000500000004030201000000000600000000000000e80300000f0000002b12839bf88ec1941f610100ffffffd160616161616161",
    "4c52444601020000000000000500000004030201000000000600000000000000e80300000c0000008c50bd9e490f29e64b4c1c05a36014240e730000",
    "4c52444601030000000000000500000004030201000000000600000000000000e80300001e0000009b52bc716f6ed7461f8b08000000000000034b4c1c05a36014240e73000003da389ae8030000",
    "4c52444601040000000000000500000004030201000000000600000000000000e803000013000000691f635aac4a473a28b52ffd60e8024d00001061610100e32b8005",
];

#[test]
fn content_below_the_threshold_or_that_does_not_shrink_is_stored_raw() {
    let small = [b'a'; 63];
    let noise = samples::noise(4096, 1);
    for codec in CODECS {
        for content in [&small[..], &noise, &[]] {
            let (frame, header) = sealed(codec, content);
            assert_eq!((header.codec, header.len as usize), (Codec::None, content.len() + HEADER_LEN));
            assert_eq!(&frame[HEADER_LEN..], content);
            assert_eq!(open(&frame, header.checksum).unwrap(), content);
        }
        assert_eq!(sealed(codec, &[b'a'; 64]).1.codec == Codec::None, codec == Codec::None, "{codec}");
    }
}

#[test]
fn damage_is_reported_with_inode_and_page_and_what_differs() {
    let (mut frame, header) = sealed(Codec::Lz4, &samples::text(4096, 1));
    let other = open(&frame, header.checksum ^ 1).unwrap_err().to_string();
    assert!(other.contains("page 5 of inode 16909060") && other.contains("the catalog says"), "{other}");
    frame[100] ^= 1;
    let flipped = open(&frame, header.checksum).unwrap_err().to_string();
    assert!(flipped.contains("page 5 of inode 16909060") && flipped.contains("it says"), "{flipped}");
}

/// The checksum holds, and yet the payload is none: what a faulty writer would leave.
#[test]
fn a_payload_that_does_not_decompress_is_damaged_though_its_checksum_holds() {
    for codec in CODECS {
        for seed in 0..200 {
            let (mut frame, _) = sealed(codec, &samples::text(2000, 1));
            let at =
                HEADER_LEN + samples::Random::new(seed).below((frame.len() - HEADER_LEN) as u64) as usize;
            frame[at] ^= 1 << (seed % 8);
            frame[CHECKSUM_AT..HEADER_LEN].fill(0);
            let checksum = xxh3_64(&frame);
            frame[CHECKSUM_AT..HEADER_LEN].copy_from_slice(&checksum.to_le_bytes());
            match open(&frame, checksum) {
                Ok(content) => assert_eq!(content.len(), 2000),
                Err(error) => assert!(matches!(error, Error::Damaged(_)), "{error}"),
            }
        }
    }
}

fn content() -> impl Strategy<Value = Vec<u8>> {
    (0usize..40_000, any::<u64>(), 0..3).prop_map(|(len, seed, kind)| match kind {
        0 => samples::text(len, seed),
        1 => samples::noise(len, seed),
        _ => [samples::text(len / 2, seed), samples::noise(len / 4, seed), vec![0; len / 4]].concat(),
    })
}

proptest! {
    #[test]
    fn what_was_sealed_opens(content in content(), codec in prop::sample::select(&CODECS[..]),
            ino: u64, page: u32, sequence: u64, threshold in 0u32..5000) {
        let mut out = b"neighbour".to_vec();
        let header = seal(&mut out, Ino(ino), PageNo(page), sequence, How { codec, threshold }, &content);
        let frame = &out[9..];
        prop_assert_eq!((header.ino, header.page, header.sequence), (Ino(ino), PageNo(page), sequence));
        prop_assert_eq!(peek(frame), Some(header));
        prop_assert_eq!(header.len as usize, frame.len());
        prop_assert_eq!(open(frame, header.checksum).unwrap(), content);
    }

    #[test]
    fn a_flipped_bit_or_a_cut_is_damage(content in content(), codec in prop::sample::select(&CODECS[..]),
            place: prop::sample::Index, bit in 0u8..8) {
        let (mut frame, header) = sealed(codec, &content);
        let at = place.index(frame.len());
        prop_assert!(matches!(open(&frame[..at], header.checksum), Err(Error::Damaged(_))));
        frame[at] ^= 1 << bit;
        prop_assert!(matches!(open(&frame, header.checksum), Err(Error::Damaged(_))));
    }

    #[test]
    fn any_bytes_are_refused_without_a_panic(bytes: Vec<u8>, checksum: u64) {
        let mut frame = MAGIC.to_vec();
        frame.extend([VERSION, 1, 0, 0, 0, 0, 0, 0]);
        frame.extend(&bytes);
        prop_assert!(open(&bytes, checksum).is_err() && open(&frame, checksum).is_err());
        let _ = (peek(&bytes), peek(&frame));
    }
}
