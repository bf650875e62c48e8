import { defineConfig } from 'vitest/config'

const long = process.env.QWEN3_LONG === '1'

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    // The addon holds threads and process-wide state: a process per file, as users have it. Worker threads are tested explicitly.
    pool: 'forks',
    maxWorkers: 2,
    testTimeout: long ? 3_600_000 : 180_000,
    hookTimeout: 120_000,
    teardownTimeout: 20_000,
    // A test without an assertion cannot fail.
    expect: { requireAssertions: true },
  },
})
