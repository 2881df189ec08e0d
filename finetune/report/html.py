from finetune.files import write_text
def write_report(folder, read_picture=None): return write_text(folder/"report.html","x")
