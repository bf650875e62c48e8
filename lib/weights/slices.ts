/** Longest stretch of work on the event loop, in milliseconds. */
const SLICE_MS = 2
/** How often the clock is read. */
const CHECK_EVERY = 512

/** Divides long work, so that it does not block the event loop: `if (slices.due()) await slices.pause()` in its loop. */
export class Slices {
  private steps = 0
  private until = performance.now() + SLICE_MS

  /** Whether this slice has lasted long enough. */
  due(): boolean {
    return ++this.steps % CHECK_EVERY === 0 && performance.now() > this.until
  }

  /** Lets everything else that waits have its turn. */
  async pause(): Promise<void> {
    await new Promise<void>((resolve) => setImmediate(resolve))
    this.until = performance.now() + SLICE_MS
  }
}
