//! Random numbers that a seed, a user, an iteration and a step name: the same run again sends the same requests,
//! and a request that is rendered twice is the same.

/// splitmix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014).
#[derive(Clone, Debug)]
pub(super) struct SplitMix64(u64);

impl SplitMix64 {
    pub(super) fn of(seed: u64, user: u32, iteration: u32, step: u16) -> Self {
        // Mixed before they meet: seeds that differ in one bit must not be iterations that do.
        let seed = Self(seed).next();
        let mut mixed = Self(seed ^ (u64::from(user) << 32 | u64::from(iteration)));
        Self(mixed.next() ^ u64::from(step))
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `limit`, by multiplication: the product of two 32-bit numbers, shifted by 32, is below either.
    pub(super) fn below(&mut self, limit: u32) -> u32 {
        (((self.next() >> 32) * u64::from(limit)) >> 32) as u32
    }

    /// Both included. The same way, in 128 bits; the bias is below 2^-64 of the range.
    pub(super) fn between(&mut self, low: u64, high: u64) -> u64 {
        let count = u128::from(high - low) + 1;
        low + ((u128::from(self.next()) * count) >> 64) as u64
    }
}
