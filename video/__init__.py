"""Video files in and out: streaming reader and writer, arrays, quality metrics, timelines, the procedural reel."""
