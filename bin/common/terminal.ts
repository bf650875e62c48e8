/** What may be written where: colour only for people, answers on stdout, everything else on stderr. */
import type { WriteStream } from 'node:tty'

type Output = NodeJS.WriteStream & Partial<Pick<WriteStream, 'columns' | 'rows'>>

/** Colour is for terminals, unless NO_COLOR (no-color.org) says no or FORCE_COLOR says yes. */
export function hasColour(output: { isTTY?: boolean }, env: NodeJS.ProcessEnv = process.env): boolean {
  if (env.NO_COLOR) return false
  if (env.FORCE_COLOR && env.FORCE_COLOR !== '0') return true
  return output.isTTY === true && env.TERM !== 'dumb'
}

const codes = { reset: 0, bold: 1, dim: 2, red: 31, green: 32, cyan: 36 } as const

/** The escape sequence of a style, or nothing where colour does not belong. */
export function style(output: Output, name: keyof typeof codes): string {
  return hasColour(output) ? `\x1b[${codes[name]}m` : ''
}

/** `text` in a style. */
export function styled(output: Output, name: keyof typeof codes, text: string): string {
  const start = style(output, name)
  return start && text ? `${start}${text}${style(output, 'reset')}` : text
}

/**
 * A model may write any character: on a terminal its control characters are shown, not obeyed (they could retitle the
 * window or rewrite what was printed before). Files and pipes get the text as it is.
 */
export function printable(output: Output, text: string): string {
  if (!output.isTTY) return text
  // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what this looks for
  return text.replace(/[\x00-\x08\x0b-\x1f\x7f-\x9f]/g, (char) => {
    const code = char.charCodeAt(0)
    return code < 0x20 ? String.fromCharCode(0x2400 + code) : code === 0x7f ? '\u2421' : '\ufffd'
  })
}

/**
 * When the reader of a pipe has gone (`qwen3 run ... | head -1`) there is nobody left to write for: stop quietly.
 * Other write errors are real and end the command with a message.
 */
export function watchPipes(): void {
  for (const output of [process.stdout, process.stderr])
    output.on('error', (error: NodeJS.ErrnoException) => {
      if (error.code === 'EPIPE') process.exit(0)
      process.exitCode = 1
      if (output !== process.stderr) process.stderr.write(`qwen3: cannot write: ${error.message}\n`)
    })
}

/** Writes and waits when the reader is slow, so that memory stays bounded. */
export function write(output: Output, text: string): Promise<void> {
  if (text === '' || output.write(text)) return Promise.resolve()
  return new Promise((resolve) => output.once('drain', resolve))
}

/** The library's warnings in one line each, without Node's prefix and advice about stack traces. */
export function watchWarnings(): void {
  process.removeAllListeners('warning')
  process.on('warning', (warning) => {
    if (warning.name === 'Qwen3Warning') process.stderr.write(`qwen3: warning: ${warning.message}\n`)
    else process.stderr.write(`${warning.stack ?? warning.message}\n`)
  })
}
