import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { defineConfig } from 'vitest/config'

const long = process.env.QWEN3_LONG === '1'

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    // The addon holds threads and process-wide state: a process per file, as users have it. Worker threads are tested explicitly.
    pool: 'forks',
    maxWorkers: 2,
    // Tests are of the CPU unless they name a device: 'auto' must not take a GPU that this machine happens to have.
    env: { QWEN3_CUDA_LIBRARY: process.env.QWEN3_CUDA_LIBRARY ?? join(tmpdir(), 'no-libqwen3_cuda.so') },
    testTimeout: long ? 3_600_000 : 180_000,
    hookTimeout: 120_000,
    teardownTimeout: 20_000,
    // A test without an assertion cannot fail.
    expect: { requireAssertions: true },
  },
})
