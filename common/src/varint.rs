//! Numbers in as few bytes as they take, for what lies on disks in great numbers: seven bits a byte,
//! the lowest first; the eighth says that there are more.

pub fn put(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// Takes one from the front. `None`: what is there is none.
pub fn take(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0u64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        let part = u64::from(byte & 0x7f);
        if part << shift >> shift != part {
            return None;
        }
        number |= part << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_number_is_taken_as_it_was_put(number in any::<u64>(), shift in 0u32..64) {
            let number = number >> shift;
            let mut bytes = Vec::new();
            put(&mut bytes, number);
            prop_assert!(bytes.len() <= 10);
            prop_assert_eq!(take(&mut &bytes[..bytes.len() - 1]), None);
            bytes.push(7);
            let mut rest = bytes.as_slice();
            prop_assert_eq!(take(&mut rest), Some(number));
            prop_assert_eq!(rest, [7]);
        }
    }

    #[test]
    fn what_is_larger_than_a_number_is_none() {
        assert_eq!(take(&mut [0xff; 11].as_slice()), None);
        let mut most = vec![0xff; 9];
        most.push(1);
        assert_eq!(take(&mut most.as_slice()), Some(u64::MAX));
        *most.last_mut().unwrap() = 2;
        assert_eq!(take(&mut most.as_slice()), None);
    }
}
