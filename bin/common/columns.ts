/** Several texts growing side by side on a terminal; anywhere else, plain lines with a label. */
import { printable, styled } from './terminal'

/** One column. */
export interface Pane {
  write(text: string, dimmed: boolean): void
  end(): void
}

interface Piece {
  text: string
  dimmed: boolean
}

const framesPerSecond = 20

export class Columns {
  readonly panes: Pane[]
  private readonly contents: Piece[][]
  private shownRows = 0
  private timer: NodeJS.Timeout | undefined

  /** `live`: stdout is a terminal that may be redrawn. */
  constructor(
    private readonly titles: string[],
    private readonly live: boolean,
  ) {
    this.contents = titles.map(() => [])
    this.panes = titles.map((title, index) => (live ? this.livePane(index) : plainPane(title)))
    if (live) this.timer = setInterval(() => this.draw(), 1000 / framesPerSecond)
  }

  close(): void {
    if (this.timer) clearInterval(this.timer)
    if (this.live) this.draw()
  }

  private livePane(index: number): Pane {
    return { write: (text, dimmed) => void this.contents[index]!.push({ text, dimmed }), end: () => undefined }
  }

  /** Rewrites the frame in place: at most the terminal's height, showing the end of longer columns. */
  private draw(): void {
    const out = process.stdout
    const gap = 3
    const width = Math.max(
      16,
      Math.floor(((out.columns || 80) - gap * (this.titles.length - 1)) / this.titles.length) - 1,
    )
    const height = Math.max(4, (out.rows || 24) - 6)
    const columns = this.contents.map((pieces) => wrap(pieces, width).slice(-height))
    const rows = Math.max(this.shownRows - 1, ...columns.map((lines) => lines.length))
    const cell = (line: Line | undefined) => {
      const text = line?.text ?? ''
      return styled(out, line?.dimmed ? 'dim' : 'bold', text) + ' '.repeat(Math.max(0, width - text.length))
    }
    const frame = [this.titles.map((title) => styled(out, 'cyan', title.padEnd(width))).join(' '.repeat(gap))]
    for (let row = 0; row < rows; row++) frame.push(columns.map((lines) => cell(lines[row])).join(' '.repeat(gap)))
    const up = this.shownRows > 0 ? `\x1b[${this.shownRows}A` : ''
    out.write(`${up}${frame.map((line) => `\r\x1b[K${line}\n`).join('')}`)
    this.shownRows = frame.length
  }
}

interface Line {
  text: string
  dimmed: boolean
}

/** Lines of at most `width` characters, broken at spaces where there is one. A line has one style: that of its start. */
function wrap(pieces: Piece[], width: number): Line[] {
  const lines: Line[] = []
  for (const dimmed of [true, false]) {
    const text = pieces
      .filter((piece) => piece.dimmed === dimmed)
      .map((piece) => piece.text)
      .join('')
      .trim()
    if (text === '') continue
    if (lines.length > 0) lines.push({ text: '', dimmed })
    for (const paragraph of printable(process.stdout, text).split('\n'))
      lines.push(...wrapLine(paragraph, width).map((part) => ({ text: part, dimmed })))
  }
  return lines
}

function wrapLine(text: string, width: number): string[] {
  const parts: string[] = []
  let rest = text
  while (rest.length > width) {
    const space = rest.lastIndexOf(' ', width)
    const end = space > width / 2 ? space : width
    parts.push(rest.slice(0, end))
    rest = rest.slice(end).trimStart()
  }
  return [...parts, rest]
}

/** Each finished line with its label; nothing is rewritten. */
function plainPane(title: string): Pane {
  let buffer = ''
  let thinking = false
  const flush = (all: boolean) => {
    const lines = buffer.split('\n')
    buffer = all ? '' : lines.pop()!
    for (const line of lines)
      if (line.trim()) process.stdout.write(`${title.padEnd(12)}| ${thinking ? '(thinking) ' : ''}${line}\n`)
  }
  return {
    write(text, dimmed) {
      if (dimmed !== thinking) flush(true)
      thinking = dimmed
      buffer += text
      flush(false)
    },
    end: () => flush(true),
  }
}
