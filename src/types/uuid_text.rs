//! UUIDs as Kafka writes them: 16 bytes in URL-safe base64 without padding, 22 characters.

use super::Uuid;

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
const CHARACTERS: usize = 22;

/// Bits of the last character that no byte fills.
const UNUSED_BITS: u32 = 6 * CHARACTERS as u32 - 128;

pub fn uuid_text(id: Uuid) -> String {
    let bits = id.as_u128();
    let sextet = |at: usize| match (CHARACTERS - 1 - at) as u32 * 6 {
        0 => bits << UNUSED_BITS,
        shift => bits >> (shift - UNUSED_BITS),
    };
    (0..CHARACTERS).map(|at| char::from(ALPHABET[(sextet(at) & 63) as usize])).collect()
}

/// `None` for what [`uuid_text`] does not write.
pub fn parse_uuid_text(text: &str) -> Option<Uuid> {
    if text.len() != CHARACTERS {
        return None;
    }
    let mut bits: u128 = 0;
    for (at, byte) in text.bytes().enumerate() {
        let value = ALPHABET.iter().position(|digit| *digit == byte)? as u128;
        if at + 1 < CHARACTERS {
            bits = bits << 6 | value;
        } else if value & ((1 << UNUSED_BITS) - 1) == 0 {
            bits = bits << (6 - UNUSED_BITS) | value >> UNUSED_BITS;
        } else {
            return None;
        }
    }
    Some(Uuid::from_u128(bits))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn texts_are_kafkas() {
        assert_eq!(uuid_text(Uuid::from_u128(1)), "AAAAAAAAAAAAAAAAAAAAAQ");
        assert_eq!(uuid_text(Uuid::from_u128(u128::MAX)), "_____________________w");
        let id = Uuid::from_u128(0x3331_3c77_2f3b_4c24_8c07_0d0f_2f3d_1e5a);
        assert_eq!(uuid_text(id), "MzE8dy87TCSMBw0PLz0eWg");
    }

    #[test]
    fn what_is_no_uuid_is_refused() {
        for text in [
            "",
            "MzE8dy87TCSMBw0PLz0eW",
            "MzE8dy87TCSMBw0PLz0eWgA",
            "MzE8dy87TCSMBw0PLz0eWh",
            "+zE8dy87TCSMBw0PLz0eWg",
        ] {
            assert_eq!(parse_uuid_text(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn every_uuid_is_read_back(bits: u128) {
            let id = Uuid::from_u128(bits);
            prop_assert_eq!(parse_uuid_text(&uuid_text(id)), Some(id));
        }

        #[test]
        fn only_what_is_written_is_read(text in "[A-Za-z0-9_-]{22}") {
            if let Some(id) = parse_uuid_text(&text) {
                prop_assert_eq!(uuid_text(id), text);
            }
        }
    }
}
