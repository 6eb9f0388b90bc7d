//! User frames in a sample: one to three words each, so that a frame costs its own size.
//!
//! A word whose top byte is zero is an address in machine code. Else the top byte is a [`FrameTag`], which tells how many
//! words follow, and the rest of the word is the frame's first figure.

/// Whose frame it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum FrameTag {
    /// Machine code: the word is its address.
    Native = 0,
    /// A function of CPython.
    Python = 1,
    /// A function of V8.
    JavaScript = 2,
    /// A coroutine of CPython: the outermost one of a task that waits for the task whose frames stand before it.
    WaitingTask = 3,
    /// A coroutine that the one before it, of [`FrameTag::WaitingTask`] or this tag, awaits.
    Waiting = 4,
    /// Machine code of which user space had not told: the kernel itself was asked what is mapped there, at that moment. The rest of
    /// the word is its address.
    Found = 5,
}

/// Where the tag is in a frame's first word.
const TAG_SHIFT: u32 = 56;

/// Most words of a frame.
pub const MAX_FRAME_WORDS: usize = 3;

impl FrameTag {
    /// The tag of a frame's first word; `None` for one that is not known.
    pub fn of(word: u64) -> Option<Self> {
        match word >> TAG_SHIFT {
            0 => Some(Self::Native),
            1 => Some(Self::Python),
            2 => Some(Self::JavaScript),
            3 => Some(Self::WaitingTask),
            4 => Some(Self::Waiting),
            5 => Some(Self::Found),
            _ => None,
        }
    }

    /// A frame's first word: `figure` without its top byte.
    #[inline(always)]
    pub fn word(self, figure: u64) -> u64 {
        (self as u64) << TAG_SHIFT | figure & ((1 << TAG_SHIFT) - 1)
    }

    /// The figure in a frame's first word.
    pub fn figure(word: u64) -> u64 {
        word & ((1 << TAG_SHIFT) - 1)
    }

    /// How many words a frame has, with its first.
    pub const fn words(self) -> usize {
        match self {
            Self::Native | Self::Found => 1,
            Self::Python | Self::WaitingTask | Self::Waiting => 2,
            Self::JavaScript => 3,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is put into a word comes out of it; a tag of the future is not taken for one of today.
    #[test]
    fn words_have_tags() {
        use FrameTag::{Found, JavaScript, Native, Python, Waiting, WaitingTask};
        for tag in [Native, Python, JavaScript, WaitingTask, Waiting, Found] {
            let word = tag.word(0x7fff_1234_5678);
            assert_eq!(FrameTag::of(word), Some(tag));
            assert_eq!(FrameTag::figure(word), 0x7fff_1234_5678);
            assert!(tag.words() <= MAX_FRAME_WORDS);
        }
        assert_eq!(FrameTag::of(6 << 56), None);
    }
}
