//! Random choices that a seed reproduces.

/// A small generator (xorshift64*); not for secrets.
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// Equal seeds give equal sequences.
    pub fn new(seed: u64) -> Self {
        // splitmix64 spreads small seeds and never yields the one state that xorshift cannot leave.
        let mut state = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
        state = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        state = (state ^ (state >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        Self((state ^ (state >> 31)) | 1)
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// A number from 0 to `limit - 1`; 0 when `limit` is 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.bits() % limit.max(1)
    }

    /// True once in `count` times.
    pub fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }

    /// One element.
    ///
    /// # Panics
    /// When `of` is empty.
    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len() as u64) as usize]
    }

    /// Fills `buffer` with bytes that do not compress.
    pub fn fill(&mut self, buffer: &mut [u8]) {
        for piece in buffer.chunks_mut(8) {
            let bits = self.bits().to_le_bytes();
            piece.copy_from_slice(&bits[..piece.len()]);
        }
    }

    /// Bytes that look like program text and compress about as well: words, indentation, punctuation.
    pub fn text(&mut self, len: usize) -> Vec<u8> {
        const WORDS: [&str; 32] = [
            "static ",
            "int ",
            "struct ",
            "return ",
            "if (",
            ") {\n\t",
            "}\n\n",
            "for (",
            "const ",
            "->",
            "buffer",
            "length",
            "error",
            "device",
            "state",
            " = ",
            " == ",
            ";\n\t",
            "0x",
            "NULL",
            "/* ",
            " */\n",
            "unsigned ",
            "char *",
            "lock",
            "index",
            "node",
            "page",
            "(",
            ");\n",
            "name",
            "->next",
        ];
        let mut text = Vec::with_capacity(len + 16);
        while text.len() < len {
            let bits = self.bits();
            text.extend_from_slice(WORDS[(bits % 32) as usize].as_bytes());
            // Names are what makes real text compress worse than a list of keywords.
            if bits >> 32 & 3 == 0 {
                let letters = (bits >> 8).to_le_bytes();
                let count = 3 + (bits >> 40 & 3) as usize;
                text.extend(letters[..count].iter().map(|letter| b'a' + letter % 26));
            }
        }
        text.truncate(len);
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_one_sequence_and_another_seed_another() {
        let sequence = |seed| {
            let mut dice = Dice::new(seed);
            (0..8).map(|_| dice.bits()).collect::<Vec<_>>()
        };
        assert_eq!(sequence(1), sequence(1));
        assert_ne!(sequence(1), sequence(2));
        assert_ne!(Dice::new(3).text(100), Dice::new(4).text(100));
        assert_eq!(Dice::new(3).text(1001).len(), 1001);
    }
}
