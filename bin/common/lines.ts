/** Lines from a person at a terminal, or from a pipe. */
import { createInterface, type Interface } from 'node:readline'

/**
 * At a terminal each line is read by a readline interface of its own: between two lines the terminal is in its normal
 * mode, so that Ctrl-C during an answer is a real SIGINT. From a pipe one interface reads all lines.
 */
export class LineReader {
  readonly interactive = process.stdin.isTTY === true && process.stdout.isTTY === true
  private history: string[] = []
  private pipe: { reader: Interface; lines: AsyncIterator<string> } | undefined

  /** The next line (lines that end in a backslash are joined), or undefined at the end of the input. */
  async next(prompt: string): Promise<string | undefined> {
    let line = await this.one(prompt)
    while (line?.endsWith('\\')) {
      const more = await this.one('  ')
      line = `${line.slice(0, -1)}\n${more ?? ''}`
      if (more === undefined) break
    }
    return line
  }

  close(): void {
    this.pipe?.reader.close()
  }

  private async one(prompt: string): Promise<string | undefined> {
    if (this.interactive) return await this.ask(prompt)
    if (!this.pipe) {
      const reader = createInterface({ input: process.stdin, crlfDelay: Number.POSITIVE_INFINITY, terminal: false })
      this.pipe = { reader, lines: reader[Symbol.asyncIterator]() }
    }
    const { value, done } = await this.pipe.lines.next()
    return done ? undefined : value
  }

  private ask(prompt: string): Promise<string | undefined> {
    const reader = createInterface({
      input: process.stdin,
      output: process.stdout,
      history: this.history,
      historySize: 1000,
      removeHistoryDuplicates: true,
    })
    return new Promise((resolve) => {
      let answer: string | undefined
      reader.on('history', (history) => {
        this.history = history
      })
      reader.on('SIGINT', () => {
        process.stdout.write('\n(Ctrl-C stops an answer; /exit or Ctrl-D ends the program)\n')
        reader.write(null, { ctrl: true, name: 'u' }) // drop what was typed
        reader.prompt()
      })
      reader.on('close', () => {
        if (answer === undefined) process.stdout.write('\n')
        resolve(answer)
      })
      reader.setPrompt(prompt)
      reader.prompt()
      reader.once('line', (line) => {
        answer = line
        reader.close()
      })
    })
  }
}
